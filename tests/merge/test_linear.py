import pytest
import torch

from gptailor.errors import MergeError
from gptailor.merge import merge


def test_the_worked_out_value() -> None:
    tensors = [torch.tensor([1.0, 0.0]), torch.tensor([5.0, 4.0]), torch.tensor([1.0, 8.0])]
    merged = merge("linear", tensors, weights=[2, 1, 1])
    torch.testing.assert_close(merged, torch.tensor([2.0, 3.0]))


def test_without_weights_it_is_the_mean() -> None:
    tensors = [torch.tensor([0.0]), torch.tensor([1.0]), torch.tensor([5.0])]
    torch.testing.assert_close(merge("linear", tensors), torch.tensor([2.0]))


def test_only_the_ratio_of_weights_matters() -> None:
    tensors = [torch.tensor([0.1, 7.0]), torch.tensor([2.0, -3.0])]
    torch.testing.assert_close(
        merge("linear", tensors, weights=(3e-30, 1e-30)), merge("linear", tensors, weights=(30, 10))
    )


def test_a_weight_of_zero_leaves_its_source_out() -> None:
    tensors = [torch.tensor([0.5, 7.0]), torch.tensor([2.0, -3.0])]
    torch.testing.assert_close(merge("linear", tensors, weights=[1, 0]), tensors[0])
    torch.testing.assert_close(merge("linear", tensors, weights=[0, 1]), tensors[1])


@pytest.mark.parametrize(
    "weights",
    [
        [1],
        [1, 1, 1],
        [],
        1.0,
        "ab",
        [0, 0],
        [-2, 1],
        [float("nan"), 1],
        [float("inf"), 1],
        [True, 1],
    ],
)
def test_weights_that_make_no_shares_are_refused(weights: object) -> None:
    with pytest.raises(MergeError, match="linear: weights must"):
        merge("linear", [torch.ones(2), torch.zeros(2)], weights=weights)


def test_a_source_of_negative_weight_is_subtracted() -> None:
    found = merge("linear", [torch.tensor([4.0, 0.0]), torch.tensor([1.0, 1.0])], weights=[3, -1])
    assert found.tolist() == [5.5, -0.5]
