import pytest
import torch

from gptailor.merge import merge


def test_the_worked_out_value_at_sixty_degrees() -> None:
    base = torch.tensor([1.0, 1.0])
    first = base + torch.tensor([1.0, 0.0])
    second = base + torch.tensor([0.5, 3**0.5 / 2])
    # c = 1/2, N = 2: t = 2 * 1/2 / (1 + 1/2) = 2/3 of the way to the mean
    expected = base + 2 / 3 * torch.tensor([0.75, 3**0.5 / 4])
    torch.testing.assert_close(merge("model_stock", [first, second], base=base), expected)


def test_three_sources_take_the_mean_of_three_cosines() -> None:
    base = torch.zeros(2)
    sources = [torch.tensor([2.0, 0.0]), torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])]
    # cosines 1, 0, 0: c = 1/3, t = 3 * 1/3 / (1 + 2/3) = 3/5; the mean is (5/3, 4/3)
    expected = torch.tensor([1.0, 0.8])
    torch.testing.assert_close(merge("model_stock", sources, base=base), expected)


def test_orthogonal_differences_give_the_base() -> None:
    base = torch.tensor([1.0, 2.0])
    sources = [base + torch.tensor([0.0, 5.0]), base + torch.tensor([3.0, 0.0])]
    torch.testing.assert_close(merge("model_stock", sources, base=base), base)


@pytest.mark.parametrize("factor", [-1.0, -2.0])
def test_differences_that_cancel_give_the_base(factor: float) -> None:
    base, delta = torch.ones(3), torch.tensor([1.0, -2.0, 0.5])
    merged = merge("model_stock", [base + delta, base + factor * delta], base=base)
    assert torch.equal(merged, base)


def test_a_source_equal_to_the_base_has_no_direction_and_no_nan() -> None:
    base, delta = torch.ones(3), torch.tensor([1.0, -2.0, 0.5])
    assert torch.equal(merge("model_stock", [base, base + delta], base=base), base)


@pytest.mark.parametrize("size", [1e-8, 1e-20, 1.0, 1e15])
def test_the_size_of_the_differences_is_without_meaning_to_the_angle(size: float) -> None:
    base = torch.zeros(2)
    sources = [torch.tensor([1.0, 0.0]) * size, torch.tensor([1.0, 1.0]) * size]
    unit = merge("model_stock", [source / size for source in sources], base=base)
    torch.testing.assert_close(merge("model_stock", sources, base=base) / size, unit)
