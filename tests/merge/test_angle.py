import pytest
import torch

from gptailor.merge import angle
from gptailor.merge.angle import cosine


def test_the_cosine_of_sixty_degrees() -> None:
    found = cosine(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 3**0.5]))
    assert found == pytest.approx(0.5, abs=1e-7)


@pytest.mark.parametrize("size", [1e-40, 1e-20, 1.0, 1e20, 1e38])
def test_a_tensor_with_itself_is_one_at_any_size(size: float) -> None:
    weight = torch.tensor([1.0, -2.0, 3.0]) * size
    assert cosine(weight, weight) == pytest.approx(1.0, abs=1e-12)
    assert cosine(weight, -weight) == pytest.approx(-1.0, abs=1e-12)
    assert -1.0 <= cosine(weight, -weight) <= cosine(weight, weight) <= 1.0


def test_zeros_have_no_direction() -> None:
    assert cosine(torch.zeros(3), torch.ones(3)) == 0.0
    assert cosine(torch.zeros(()), torch.zeros(())) == 0.0


def test_chunks_are_without_meaning() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(angle._CHUNK + 17, generator=generator) for _ in range(2))
    whole = torch.nn.functional.cosine_similarity(left.double(), right.double(), dim=0)
    assert cosine(left, right) == pytest.approx(whole.item(), abs=1e-12)
