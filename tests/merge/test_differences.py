import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptailor.merge.differences import _CHUNK, cosine, keep_agreeing_, largest, total

# few values, so that many magnitudes are equal
FEW = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, 3.0]), min_size=1, max_size=12)


@settings(max_examples=4 * settings.default.max_examples)
@given(values=FEW, count=st.integers(0, 14))
def test_the_largest_are_those_of_a_stable_sort_without_zeros(
    values: list[float], count: int
) -> None:
    order = sorted(range(len(values)), key=lambda index: -abs(values[index]))  # sorted is stable
    expected = {index for index in order[:count] if values[index] != 0}
    kept = largest(torch.tensor(values), count)
    assert set(kept.nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("count", [0, 1, 777, 5999, 6000])
def test_as_many_are_named_as_asked_for(count: int) -> None:
    entries = torch.randn(60, 100, generator=torch.Generator().manual_seed(0))
    kept = largest(entries, count)
    assert kept.shape == entries.shape
    assert int(kept.sum()) == count
    if 0 < count < entries.numel():
        assert entries[kept].abs().min() > entries[~kept].abs().max()


def test_the_sum_is_new_and_in_order() -> None:
    only = torch.ones(2)
    total([only]).add_(1)
    assert only.tolist() == [1.0, 1.0]
    large = [torch.tensor([value]) for value in (1e8, 1.0, -1e8)]
    assert total(large).item() == 0.0  # ((1e8 + 1) - 1e8) in float32


def test_entries_against_the_sign_of_the_sum_become_zero() -> None:
    pair = [torch.tensor([3.0, 1.0, 0.0, -1.0, 2.0]), torch.tensor([-1.0, -4.0, -2.0, -1.0, -2.0])]
    keep_agreeing_(pair)
    assert pair[0].tolist() == [3.0, 0.0, 0.0, -1.0, 2.0]
    assert pair[1].tolist() == [0.0, -4.0, -2.0, -1.0, 0.0]


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
    left, right = (torch.randn(_CHUNK + 17, generator=generator) for _ in range(2))
    whole = torch.nn.functional.cosine_similarity(left.double(), right.double(), dim=0)
    assert cosine(left, right) == pytest.approx(whole.item(), abs=1e-12)
