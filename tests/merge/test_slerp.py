import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptailor.errors import MergeError
from gptailor.merge import merge


def test_the_worked_out_value_a_third_of_a_right_angle() -> None:
    merged = merge("slerp", [torch.tensor([2.0, 0.0]), torch.tensor([0.0, 2.0])], t=1 / 3)
    expected = torch.tensor([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)])
    torch.testing.assert_close(merged, expected)


def test_the_ends_are_the_sources() -> None:
    start, end = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.5, -2.0, 4.0])
    assert torch.equal(merge("slerp", [start, end], t=0), start)
    assert torch.equal(merge("slerp", [start, end], t=1), end)


def test_opposite_tensors_are_merged_on_a_line() -> None:
    weight = torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(merge("slerp", [weight, -weight], t=0.25), 0.5 * weight)


def test_multiples_of_one_tensor_are_merged_on_a_line() -> None:
    weight = torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(merge("slerp", [weight, 3 * weight], t=0.5), 2 * weight)


def test_a_tensor_of_zeros_counts_as_orthogonal() -> None:
    weight = torch.tensor([1.0, -2.0])
    merged = merge("slerp", [torch.zeros(2), weight], t=0.5)
    torch.testing.assert_close(merged, math.sqrt(0.5) * weight)


def test_the_angle_is_right_where_half_precision_would_lose_it() -> None:
    # entries of 1e-4: their products of 1e-8 are 0 in float16
    generator = torch.Generator().manual_seed(0)
    start = (torch.randn(200, 100, generator=generator) * 1e-4).half()
    merged = merge("slerp", [start, start * 1.001], t=0.5)
    torch.testing.assert_close(merged, start.float(), rtol=2e-3, atol=1e-7)


@pytest.mark.parametrize("n", [3, 4])
def test_more_than_two_sources_are_refused(n: int) -> None:
    with pytest.raises(MergeError, match=f"slerp merges 2 sources, not {n}"):
        merge("slerp", [torch.ones(2)] * n)


@given(angle=st.floats(0.04, 3.1), t=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_the_arc_keeps_the_norm_and_divides_the_angle(angle: float, t: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    plane = torch.linalg.qr(torch.randn(12, 2, generator=generator, dtype=torch.float64)).Q.T
    start, end = plane[0], math.cos(angle) * plane[0] + math.sin(angle) * plane[1]
    expected = math.cos(t * angle) * plane[0] + math.sin(t * angle) * plane[1]
    torch.testing.assert_close(
        merge("slerp", [start, end], t=t), expected.float(), rtol=0.0, atol=2e-5
    )
