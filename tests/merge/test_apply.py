import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gptailor.core.merge_spec import MergeSpec, merge_method, merge_spec
from gptailor.core.params import Range
from gptailor.core.plugins import MERGE_METHODS
from gptailor.errors import MergeError
from gptailor.merge import merge

PAIR = (torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0]))
BASE = torch.tensor([0.0, 1.0])


def error(
    name: str | MergeSpec, tensors: object = PAIR, base: object = BASE, **params: object
) -> str:
    with pytest.raises(MergeError) as caught:
        merge(name, tensors, base=base, **params)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_unknown_method_is_told_with_the_one_that_may_be_meant() -> None:
    told = error("task_aritmetic")
    assert told.startswith("unknown merge method 'task_aritmetic'; did you mean 'task_arithmetic'?")
    assert all(name in told for name in MERGE_METHODS.builtin)


def test_an_unknown_parameter_is_told_with_the_one_that_may_be_meant() -> None:
    assert "did you mean 'density'?" in error("ties", densty=0.5)
    assert "weights" in error("linear", weigths=[1, 1])
    assert error("model_stock", scale=1.0).endswith("'scale'; known: none; remove it")


@pytest.mark.parametrize("name", MERGE_METHODS.builtin)
@pytest.mark.parametrize("value", [None, "much", True, float("nan"), float("inf"), -1, [1], 1 + 0j])
def test_a_value_out_of_limits_is_told_with_the_limits(name: str, value: object) -> None:
    for key in merge_spec(name).params:
        told = error(name, **{key: value})
        assert told.startswith(f"{name}: {key} must be a ")
        assert repr(value) in told


def test_a_seed_must_be_whole() -> None:
    assert "whole number" in error("dare_ties", seed=0.5)


@pytest.mark.parametrize("name", MERGE_METHODS.builtin)
def test_parameters_are_checked_with_one_source_too(name: str) -> None:
    assert "nonsense" in error(name, PAIR[:1], nonsense=1)


@pytest.mark.parametrize("name", MERGE_METHODS.builtin)
def test_nothing_to_merge_is_a_problem(name: str) -> None:
    assert "nothing to merge" in error(name, [])


@pytest.mark.parametrize("name", MERGE_METHODS.builtin)
def test_a_tensor_in_place_of_a_list_is_a_problem(name: str) -> None:
    assert "must be a list of tensors" in error(name, torch.ones(2, 2))


@pytest.mark.parametrize("name", MERGE_METHODS.builtin)
def test_a_missing_base_is_a_problem_where_the_method_needs_it(name: str) -> None:
    if merge_spec(name).needs_base:
        assert "give the base's tensor" in error(name, base=None)
    else:
        torch.testing.assert_close(merge(name, PAIR), merge(name, PAIR, base=BASE))


@pytest.mark.parametrize("name", MERGE_METHODS.builtin)
def test_unlike_shapes_are_told_never_broadcast(name: str) -> None:
    wide = torch.ones(1, 2)
    told = error(name, [PAIR[0], wide])
    assert "tensors[1] has shape (1, 2) but tensors[0] has (2,)" in told
    if merge_spec(name).needs_base:
        assert "the base has shape (1, 2) but tensors[0] has (2,)" in error(name, base=wide)


@pytest.mark.parametrize(
    "bad",
    [torch.tensor([1, 2]), torch.tensor([True, False]), torch.tensor([1j, 2j])],
    ids=lambda bad: str(bad.dtype),
)
def test_only_floating_point_is_merged(bad: Tensor) -> None:
    for name in MERGE_METHODS.builtin:
        told = error(name, [PAIR[0], bad])
        assert re.search(rf"tensors\[1\] is of {bad.dtype}; only floating point", told)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_values_that_are_not_finite_are_told(bad: float, dtype: torch.dtype) -> None:
    broken = torch.tensor([1.0, bad], dtype=dtype)
    for name in MERGE_METHODS.builtin:
        assert "tensors[1] has NaN or infinite values" in error(name, [PAIR[0], broken])
        assert "tensors[0] has NaN or infinite values" in error(name, [broken])
        if merge_spec(name).needs_base:
            assert "the base has NaN or infinite values" in error(name, base=broken)


def test_what_is_not_a_plain_tensor_is_told() -> None:
    assert "tensors[0] is a ndarray, not a tensor" in error("linear", [np.ones(2), PAIR[0]])
    assert "tensors[1] is a NoneType, not a tensor" in error("linear", [PAIR[0], None])
    assert "has no data" in error("linear", [PAIR[0], torch.ones(2, device="meta")])
    assert "is sparse" in error("linear", [PAIR[0], PAIR[1].to_sparse()])


def test_more_sources_than_int8_counts_are_averaged_rightly() -> None:
    merged = merge("ties", [torch.ones(2)] * 300, base=torch.zeros(2), density=1.0, scale=1.0)
    assert merged.tolist() == [1.0, 1.0]


def test_many_small_dtypes_are_read() -> None:
    eighth = torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)
    assert merge("linear", [eighth, eighth]).tolist() == [1.0, 2.0]


def test_a_method_that_is_not_in_the_list_is_used_by_its_object() -> None:
    @merge_method("first", params={"share": Range(0.0, 1.0, default=1.0)}, symmetric=False)
    def first(tensors: Sequence[Tensor], *, share: float) -> Tensor:
        return share * tensors[0]

    assert torch.equal(merge(first, PAIR), PAIR[0])
    assert torch.equal(merge(first, PAIR, share=0.5), PAIR[0] / 2)
    assert "first: share must be a number from 0 to 1" in error(first, share=2)


def test_what_is_declared_is_what_the_function_takes() -> None:
    with pytest.raises(
        MergeError, match=r"parameters \['share'\], but its function has.*\['part'\]"
    ):

        @merge_method("first", params={"share": Range(0.0, 1.0, default=1.0)})
        def first(tensors: Sequence[Tensor], *, part: float) -> Tensor:
            return part * tensors[0]


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(2).double(), None])
def test_a_function_that_returns_something_else_is_told(wrong: Any) -> None:
    @merge_method("other")
    def other(tensors: Sequence[Tensor]) -> Tensor:
        return wrong  # type: ignore[no-any-return]  # what is not checked before it runs

    assert error(other) == "other: its function must return a float32 tensor of (2,)"
