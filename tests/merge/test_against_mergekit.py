"""Our numbers against mergekit's: an outside judge, used as a library where it is installed."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gptailor.merge import merge

judge = pytest.importorskip("mergekit.merge_methods", reason="mergekit is not installed")

SHAPES = [(37, 29), (500,), (6, 5, 4), (1,), ()]


def inputs(shape: tuple[int, ...], n: int, *, spread: float = 0.1) -> list[Tensor]:
    """A base, then `n` sources near it, as fine-tuned weights are."""
    generator = torch.Generator().manual_seed(len(shape) + n)
    base = torch.randn(shape, generator=generator)
    return [
        base,
        *(base + spread * torch.randn(shape, generator=generator) for _ in range(n)),
    ]


def judged(name: str, tensors: list[Tensor], base: int | None = 0, **params: Any) -> Tensor:
    return judge.merge_tensors(
        tensors,
        name,
        base_index=base,
        parameters=params,
        dtype=torch.float32,
        out_dtype=torch.float32,
    )


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_task_arithmetic(shape: tuple[int, ...], n: int, scale: float) -> None:
    base, *sources = tensors = inputs(shape, n)
    theirs = judged("task_arithmetic", tensors, weight=1.0, **{"lambda": scale})
    assert_same(merge("task_arithmetic", sources, base, scale=scale), theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (3.0, 0.5, 0.0)])
def test_linear(shape: tuple[int, ...], weights: tuple[float, ...]) -> None:
    _, *sources = inputs(shape, 3)
    theirs = judged("linear", sources, base=None, weight=list(weights))
    assert_same(merge("linear", sources, weights=weights), theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("spread", [0.001, 0.1, 3.0])
def test_slerp(shape: tuple[int, ...], t: float, spread: float) -> None:
    _, *sources = inputs(shape, 2, spread=spread)
    torch.testing.assert_close(
        merge("slerp", sources, t=t), judged("slerp", sources, t=t), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1.0, 0.0], [0.0, 2.0]),
        ([1.0, 2.0], [-1.0, -2.0]),
        ([1.0, 2.0], [2.0, 4.0]),
        ([0.0, 0.0], [1.0, 2.0]),
        ([0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_slerp_at_special_angles(one: list[float], other: list[float]) -> None:
    pair = [torch.tensor(one), torch.tensor(other)]
    assert_same(merge("slerp", pair, t=0.3), judged("slerp", pair, t=0.3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.29, 0.5, 0.7, 1.0])
def test_ties(shape: tuple[int, ...], n: int, density: float) -> None:
    base, *sources = tensors = inputs(shape, n)
    theirs = judged("ties", tensors, weight=1.0, density=density, **{"lambda": 0.6})
    assert_same(merge("ties", sources, base, density=density, scale=0.6), theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.0, 0.01, 0.29, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.15, 0.5, 1.0])
def test_breadcrumbs(shape: tuple[int, ...], density: float, gamma: float) -> None:
    base, *sources = tensors = inputs(shape, 2)
    theirs = judged(
        "breadcrumbs", tensors, weight=1.0, density=density, gamma=gamma, **{"lambda": 0.6}
    )
    ours = merge("breadcrumbs", sources, base, density=density, gamma=gamma, scale=0.6)
    assert_same(ours, theirs)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("spread", [0.1, 3.0])
def test_model_stock(shape: tuple[int, ...], n: int, spread: float) -> None:
    base, *sources = tensors = inputs(shape, n, spread=spread)
    if len(shape) and shape != (1,):  # numbers alone are colinear or opposite: no angle to speak of
        common = torch.ones(shape) * spread  # so that the cosines are well above 0
        sources = [source + common for source in sources]
        tensors = [base, *sources]
    torch.testing.assert_close(
        merge("model_stock", sources, base), judged("model_stock", tensors), rtol=1e-5, atol=1e-5
    )


def test_model_stock_where_the_cosine_is_negative() -> None:
    base = torch.zeros(2)
    sources = [torch.tensor([1.0, 0.0]), torch.tensor([-0.5, 1.0])]
    assert_same(merge("model_stock", sources, base), judged("model_stock", [base, *sources]))


def masked_differences(
    shape: tuple[int, ...], tensors: list[Tensor], density: float
) -> list[Tensor]:
    """What DARE keeps of each source, rescaled: the masks read off a merge of ones and tens."""
    base, *sources = tensors
    zeros, ones = torch.zeros(shape), torch.ones(shape)
    marks = [ones * 10.0**index for index in range(len(sources))]
    seen = merge("dare_linear", marks, zeros, density=density, scale=1.0, seed=7) * density
    digits = seen.round().long()
    kept = [(digits // 10**index) % 10 for index in range(len(sources))]
    return [mask * (source - base) / density for mask, source in zip(kept, sources, strict=True)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "rule", "options"),
    [("dare_linear", "task_arithmetic", {}), ("dare_ties", "ties", {"normalize": False})],
)
def test_dare_with_the_same_masks(
    shape: tuple[int, ...], density: float, name: str, rule: str, options: dict[str, Any]
) -> None:
    base, *sources = tensors = inputs(shape, 3)
    masked = [base + delta for delta in masked_differences(shape, tensors, density)]
    extra = {"density": 1.0} if rule == "ties" else {}
    theirs = judged(rule, [base, *masked], weight=1.0, **{"lambda": 0.6}, **extra, **options)
    ours = merge(name, sources, base, density=density, scale=0.6, seed=7)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dare_with_every_entry_kept(name: str) -> None:
    base, *sources = tensors = inputs((37, 29), 3)
    theirs = judged(name, tensors, weight=1.0, density=1.0, **{"lambda": 0.6})
    assert_same(merge(name, sources, base, density=1.0, scale=0.6), theirs)


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("task_arithmetic", {"scale": 0.6}, {"weight": 1.0, "lambda": 0.6}),
        ("ties", {"scale": 0.6, "density": 1.0}, {"weight": 1.0, "lambda": 0.6, "density": 1.0}),
        ("model_stock", {}, {}),
    ],
)
def test_bfloat16_sources_are_merged_in_float32(
    name: str, ours: dict[str, float], theirs: dict[str, float]
) -> None:
    common = torch.full((37, 29), 0.2)
    base, *sources = [tensor.bfloat16() for tensor in inputs((37, 29), 2)]
    sources = [(source + common).bfloat16() for source in sources]

    torch.testing.assert_close(
        merge(name, sources, base, **ours),
        judged(name, [base, *sources], **theirs),
        rtol=1e-5,
        atol=1e-5,
    )
