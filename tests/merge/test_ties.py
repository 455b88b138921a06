import pytest
import torch

from gptailor.merge import merge


def test_the_worked_out_value() -> None:
    base = torch.full((6,), 10.0)
    math = base + torch.tensor([4.0, -3.0, 2.0, 1.0, 0.5, -0.5])
    code = base + torch.tensor([2.0, 5.0, 0.1, 3.0, -0.2, 0.3])
    # density 1/2 keeps three of six: math 4, -3, 2 and code 2, 5, 3
    # signs of the sums 6, 2, 2, 3: plus; of column 1 only 5 agrees; means 3, 5, 2, 3
    expected = base + 0.5 * torch.tensor([3.0, 5.0, 2.0, 3.0, 0.0, 0.0])
    assert torch.equal(merge("ties", [math, code], base=base, density=0.5, scale=0.5), expected)


def test_where_signs_cancel_plus_wins() -> None:
    first, second = torch.tensor([1.0, -2.0]), torch.tensor([-1.0, 2.0])
    merged = merge("ties", [first, second], base=torch.zeros(2), density=1.0, scale=1.0)
    assert merged.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("density", "n_kept"), [(0.0, 0), (1e-9, 1), (0.1, 1), (0.19, 1), (0.2, 2), (0.99, 9), (1, 10)]
)
def test_a_density_keeps_its_share_of_the_entries_but_at_least_one(
    density: float, n_kept: int
) -> None:
    source, base = torch.arange(1.0, 11.0), torch.zeros(10)
    merged = merge("ties", [source, source], base=base, density=density, scale=1.0)
    assert torch.equal(merged, torch.where(source > 10 - n_kept, source, base))


def test_one_entry_is_kept_at_any_density_above_zero() -> None:
    merged = merge("ties", [torch.tensor(1.0), torch.tensor(3.0)], base=torch.tensor(0.0), scale=1)
    assert merged.item() == 2.0
