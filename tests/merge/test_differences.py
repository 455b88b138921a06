import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptailor.merge.differences import keep_agreeing_, largest, total

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
