"""What every merge method must do; those of installed packages are tested too."""

import inspect
import itertools

import pytest
import torch
from torch import Tensor

from gptailor.core.merge_spec import merge_spec
from gptailor.core.plugins import MERGE_METHODS
from gptailor.merge import merge

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
METHODS = MERGE_METHODS.names  # ours, and those of installed packages
SCALED = [name for name in METHODS if merge_spec(name).scale is not None]
DENSE = {"density": 1.0, "gamma": 0.0}  # what makes random and trimming methods keep everything


def scale_of(name: str) -> str:
    key = merge_spec(name).scale
    assert key is not None
    return key


def tensors(n: int, *shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(n)]


@pytest.mark.parametrize("name", METHODS)
def test_a_function_takes_the_parameters_declared_and_a_base_where_one_is_needed(name: str) -> None:
    spec = merge_spec(name)
    by_kind: dict[object, list[str]] = {}
    for parameter in inspect.signature(spec.function).parameters.values():
        by_kind.setdefault(parameter.kind, []).append(parameter.name)
    assert by_kind.get(inspect.Parameter.KEYWORD_ONLY, []) == list(spec.keywords)
    assert len(by_kind[inspect.Parameter.POSITIONAL_OR_KEYWORD]) == 1 + spec.needs_base


@pytest.mark.parametrize("name", METHODS)
def test_a_docstring_names_its_source(name: str) -> None:
    assert "https://" in (merge_spec(name).function.__doc__ or "")


@pytest.mark.parametrize("name", METHODS)
def test_scale_and_identity_are_values_of_parameters(name: str) -> None:
    spec = merge_spec(name)
    if spec.scale is not None:
        assert spec.needs_base
        assert spec.params[spec.scale].problem(0.0) is None
    for key, ends in spec.identity.items():
        assert all(spec.params[key].problem(value) is None for value in ends)


@pytest.mark.parametrize("name", [name for name in METHODS if merge_spec(name).identity])
def test_at_an_identity_value_the_merge_is_one_source(name: str) -> None:
    *sources, base = tensors(3, 6, 5)
    for key, ends in merge_spec(name).identity.items():
        for value, index in ends.items():
            assert torch.equal(merge(name, sources, base=base, **{key: value}), sources[index])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (4, 3), (2, 3, 5)])
@pytest.mark.parametrize("name", METHODS)
def test_merging_equal_tensors_gives_them_back_to_the_bit(
    name: str, shape: tuple[int, ...]
) -> None:
    (weight,) = tensors(1, *shape)
    assert torch.equal(merge(name, [weight, weight.clone()], base=weight.clone()), weight)


@pytest.mark.parametrize("name", METHODS)
def test_merging_tensors_of_zeros_gives_zeros(name: str) -> None:
    zeros = torch.zeros(3, 2)
    assert torch.equal(merge(name, [zeros, zeros.clone()], base=zeros.clone()), zeros)


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
@pytest.mark.parametrize("name", METHODS)
def test_empty_tensors_stay_empty(name: str, shape: tuple[int, ...]) -> None:
    empty = torch.empty(shape)
    assert merge(name, [empty, empty.clone()], base=empty.clone()).shape == shape


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", METHODS)
def test_any_float_dtype_is_merged_in_float32(name: str, dtype: torch.dtype) -> None:
    given = [tensor.to(dtype) for tensor in tensors(3, 5, 4)]
    as_float32 = [tensor.float() for tensor in given]
    merged = merge(name, given[:2], base=given[2])
    assert merged.dtype == torch.float32
    assert torch.equal(merged, merge(name, as_float32[:2], base=as_float32[2]))


@pytest.mark.parametrize("name", METHODS)
def test_inputs_are_untouched_and_share_no_memory_with_the_result(name: str) -> None:
    given = tensors(3, 5, 4)
    before = [tensor.clone() for tensor in given]
    merge(name, given[:2], base=given[2]).fill_(7.0)
    assert all(torch.equal(*pair) for pair in zip(given, before, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_parameters_that_want_a_gradient_give_a_result_that_wants_none(name: str) -> None:
    given = [torch.nn.Parameter(tensor) for tensor in tensors(3, 5, 4)]
    assert not merge(name, given[:2], base=given[2]).requires_grad
    assert not merge(name, given[:1]).requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_merging_twice_gives_the_same_bits_whatever_the_global_seed(name: str) -> None:
    given = tensors(3, 40, 30)
    torch.manual_seed(1)
    first = merge(name, given[:2], base=given[2])
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(first, merge(name, given[:2], base=given[2]))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", METHODS)
def test_the_layout_in_memory_is_without_meaning(name: str) -> None:
    given = tensors(3, 6, 5)
    turned = [tensor.t().contiguous().t() for tensor in given]
    expected = merge(name, given[:2], base=given[2])
    assert torch.equal(merge(name, turned[:2], base=turned[2]), expected)
    assert torch.equal(merge(name, turned[:2], base=given[2]), expected)


@pytest.mark.parametrize("name", [name for name in METHODS if merge_spec(name).symmetric])
def test_the_order_of_sources_is_without_meaning_where_the_method_says_so(name: str) -> None:
    *sources, base = tensors(1 + (merge_spec(name).max_sources or 3), 6, 5)
    # DARE draws a mask for each source in turn: only its distribution is symmetric
    params = {"density": 1.0} if "seed" in merge_spec(name).params else {}
    expected = merge(name, sources, base=base, **params)
    for order in itertools.permutations(sources):
        torch.testing.assert_close(merge(name, order, base=base, **params), expected)


@pytest.mark.parametrize("name", [name for name in METHODS if not merge_spec(name).symmetric])
def test_the_order_of_sources_matters_where_the_method_says_so(name: str) -> None:
    first, second, base = tensors(3, 6, 5)
    spans = {key: limits.span for key, limits in merge_spec(name).params.items() if limits.tunable}
    params = {key: low + 0.2 * (high - low) for key, (low, high) in spans.items()}
    assert not torch.allclose(
        merge(name, [first, second], base, **params), merge(name, [second, first], base, **params)
    )


@pytest.mark.parametrize("name", SCALED)
def test_a_scale_of_zero_gives_the_base_back(name: str) -> None:
    *sources, base = tensors(3, 6, 5)
    assert torch.equal(merge(name, sources, base=base, **{scale_of(name): 0.0}), base)


@pytest.mark.parametrize("name", [name for name in SCALED if "density" in merge_spec(name).params])
def test_a_density_of_zero_gives_the_base_back(name: str) -> None:
    *sources, base = tensors(3, 6, 5)
    assert torch.equal(merge(name, sources, base=base, density=0.0), base)


@pytest.mark.parametrize("name", ["dare_linear", "breadcrumbs"])
def test_keeping_every_entry_is_task_arithmetic(name: str) -> None:
    *sources, base = tensors(4, 6, 5)
    params = {key: value for key, value in DENSE.items() if key in merge_spec(name).params}
    torch.testing.assert_close(
        merge(name, sources, base=base, scale=0.7, **params),
        merge("task_arithmetic", sources, base=base, scale=0.7),
    )


@pytest.mark.parametrize("name", SCALED)
def test_the_distance_from_the_base_grows_with_the_scale(name: str) -> None:
    *sources, base = tensors(3, 6, 5)
    most = merge_spec(name).params[scale_of(name)].high
    half = merge(name, sources, base=base, **{scale_of(name): most / 2}) - base
    whole = merge(name, sources, base=base, **{scale_of(name): most}) - base
    torch.testing.assert_close(2 * half, whole)


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_those_declared(name: str) -> None:
    given = tensors(3, 6, 5)
    defaults = {key: limits.default for key, limits in merge_spec(name).params.items()}
    assert torch.equal(
        merge(name, given[:2], base=given[2], **defaults), merge(name, given[:2], base=given[2])
    )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("end", ["low", "high"])
def test_every_limit_of_every_parameter_gives_finite_weights(name: str, end: str) -> None:
    spec = merge_spec(name)
    for shape in [(), (1,), (6, 5)]:
        given = tensors(3, *shape)
        for key, limits in spec.params.items():
            value = limits.low if end == "low" else limits.high
            merged = merge(name, given[:2], base=given[2], **{key: value})
            assert merged.shape == shape
            assert torch.isfinite(merged).all(), key


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", METHODS)
def test_one_source_is_taken_not_merged(name: str, dtype: torch.dtype) -> None:
    weight, base = tensors(2, 4, 3)
    given = weight.to(dtype)
    assert torch.equal(merge(name, [given], base=base), given.float())
    assert torch.equal(merge(name, [given]), given.float())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_a_gpu_gives_the_weights_that_the_cpu_gives(name: str) -> None:
    *sources, base = tensors(3, 60, 50)
    merged = merge(name, [source.cuda() for source in sources], base=base.cuda())
    assert merged.is_cuda
    torch.testing.assert_close(merged.cpu(), merge(name, sources, base=base))
