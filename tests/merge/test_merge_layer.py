from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from gptailor.core.merge_spec import merge_spec
from gptailor.core.plugins import MERGE_METHODS
from gptailor.core.tailoring import LayerSpec
from gptailor.errors import MergeError
from gptailor.merge import merge, merge_layer

NAMES = {"self_attn.q_proj.weight": (8, 6), "mlp.up_proj.weight": (5, 6), "norm.weight": (6,)}


def layer(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator).to(dtype) for name, shape in NAMES.items()
    }


def two(name: str, *, position: int = 3, **params: float) -> LayerSpec:
    return LayerSpec.of(f"code:{position}", f"math:{position}", merge=name, **params)


def assert_equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> None:
    assert list(left) == list(right)
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize(
    "name", [name for name in MERGE_METHODS.builtin if "seed" not in merge_spec(name).params]
)
def test_every_tensor_is_merged_by_its_name(name: str) -> None:
    code, math, base = layer(1), layer(2), layer(0)
    turned = dict(reversed(math.items()))
    merged = merge_layer(two(name), [code, turned], base, torch.float32)
    expected = {key: merge(name, [code[key], math[key]], base[key]) for key in NAMES}
    assert_equal(merged, expected)


@pytest.mark.parametrize("name", MERGE_METHODS.builtin)
def test_half_precision_is_merged_in_float32_and_rounded_once(name: str) -> None:
    code, math, base = (layer(seed, torch.bfloat16) for seed in (1, 2, 0))
    exact = merge_layer(two(name), [code, math], base, torch.float32)
    merged = merge_layer(two(name), [code, math], base, torch.bfloat16)
    assert_equal(merged, {key: tensor.to(torch.bfloat16) for key, tensor in exact.items()})


def test_parameters_of_the_spec_are_used() -> None:
    code, math, base = layer(1), layer(2), layer(0)
    spec = two("task_arithmetic", scale=0.8)
    merged = merge_layer(spec, [code, math], base, torch.float32)
    for key in NAMES:
        expected = merge("task_arithmetic", [code[key], math[key]], base[key], scale=0.8)
        assert torch.equal(merged[key], expected)
    spec = LayerSpec.of("code:3", "math:3", merge="linear", weights=(3.0, 1.0))
    merged = merge_layer(spec, [code, math], None, torch.float32)
    for key in NAMES:
        torch.testing.assert_close(merged[key], 0.75 * code[key] + 0.25 * math[key])


def test_a_single_source_gives_its_own_tensors() -> None:
    code = layer(1)
    taken = merge_layer(LayerSpec.of("code:3"), [code], None, torch.bfloat16)
    assert all(taken[key] is code[key] for key in NAMES)
    assert taken is not code


@pytest.mark.parametrize("name", MERGE_METHODS.builtin)
def test_what_all_inputs_share_in_memory_is_handed_on(name: str) -> None:
    base = layer(0)
    code, math = layer(1), layer(2)
    code["norm.weight"] = base["norm.weight"]
    math["norm.weight"] = base["norm.weight"].view(6)
    merged = merge_layer(two(name), [code, math], base, torch.float32)
    assert merged["norm.weight"] is code["norm.weight"]
    apart = {key: tensor.clone() for key, tensor in math.items()}
    assert_equal(merged, merge_layer(two(name), [code, apart], base, torch.float32))


def test_a_slice_that_starts_where_another_does_is_not_the_same() -> None:
    code, math, base = {"w": torch.arange(9.0).view(3, 3)}, {}, {"w": torch.zeros(3, 3)}
    math["w"] = code["w"].t()
    merged = merge_layer(two("linear"), [code, math], base, torch.float32)
    assert torch.equal(merged["w"], (code["w"] + math["w"]) / 2)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_masks_differ_by_seed_tensor_layer_and_source_and_by_nothing_else(name: str) -> None:
    ones, zeros = torch.ones(40, 40), torch.zeros(40, 40)

    def masks(spec: LayerSpec, *names: str) -> list[Tensor]:
        sources = [dict.fromkeys(names, ones), dict.fromkeys(names, ones * 8)]
        merged = merge_layer(spec, sources, dict.fromkeys(names, zeros), torch.float32)
        return [merged[key] for key in names]

    first, second = masks(two(name), "a", "b")
    assert not torch.equal(first, second)
    assert torch.equal(masks(two(name), "b", "a")[1], first)
    assert torch.equal(masks(two(name, scale=1.0), "a")[0], 2 * first)
    assert not torch.equal(masks(two(name, seed=1), "a")[0], first)
    assert not torch.equal(masks(two(name, position=4), "a")[0], first)
    assert sorted(first.unique().tolist()) == [0.0, 1.0, 8.0, 9.0]


def test_parts_outside_the_layers_are_merged_too() -> None:
    spec = LayerSpec.of("code", "math", merge="dare_linear")
    code, math, base = layer(1), layer(2), layer(0)
    assert merge_layer(spec, [code, math], base, torch.float32).keys() == NAMES.keys()


def test_whole_numbers_are_kept_where_the_sources_agree() -> None:
    code, math, base = (layer(seed) | {"steps": torch.tensor([1, 2])} for seed in (1, 2, 0))
    merged = merge_layer(two("ties"), [code, math], base, torch.bfloat16)
    assert merged["steps"] is code["steps"]
    math["steps"] = torch.tensor([1, 3])
    with pytest.raises(MergeError, match="steps: code:3 and math:3 differ"):
        merge_layer(two("ties"), [code, math], base, torch.bfloat16)


@pytest.mark.parametrize("name", ["ties", "linear"])
def test_a_tensor_that_one_source_lacks_is_told(name: str) -> None:
    code, math, base = layer(1), layer(2), layer(0)
    del math["norm.weight"]
    with pytest.raises(
        MergeError, match=r"norm\.weight: code:3 has this tensor but math:3 does not"
    ):
        merge_layer(two(name), [code, math], base, torch.float32)
    with pytest.raises(
        MergeError, match=r"norm\.weight: math:3 has this tensor but code:3 does not"
    ):
        merge_layer(two(name), [math, code], base, torch.float32)


def test_a_tensor_that_the_base_lacks_is_told() -> None:
    base = layer(0)
    del base["norm.weight"]
    with pytest.raises(
        MergeError, match=r"norm\.weight: code:3 has this tensor but the base does not"
    ):
        merge_layer(two("ties"), [layer(1), layer(2)], base, torch.float32)


def test_a_missing_base_or_source_is_told() -> None:
    with pytest.raises(MergeError, match="differences from base:3, but got no base"):
        merge_layer(two("ties"), [layer(1), layer(2)], None, torch.float32)
    with pytest.raises(MergeError, match="needs 2 sources, but got 1"):
        merge_layer(two("ties"), [layer(1)], layer(0), torch.float32)


def test_a_misfit_is_told_with_the_tensor_and_the_source() -> None:
    code, math, base = layer(1), layer(2), layer(0)
    math["norm.weight"] = torch.ones(7)
    with pytest.raises(MergeError, match=r"^norm.weight: ties: math:3 has shape \(7,\) but code:3"):
        merge_layer(two("ties"), [code, math], base, torch.float32)
    math["norm.weight"] = torch.full((6,), float("nan"))
    with pytest.raises(MergeError, match=r"^norm.weight: ties: math:3 has NaN"):
        merge_layer(two("ties"), [code, math], base, torch.float32)


def test_the_base_may_be_a_source_and_may_stand_at_another_layer() -> None:
    spec = LayerSpec.of("base:3", "math:3", merge="task_arithmetic", base="base:3", scale=1.0)
    math, base = layer(2), layer(0)
    merged = merge_layer(spec, [base, math], base, torch.float32)
    for key in NAMES:
        torch.testing.assert_close(merged[key], math[key])
