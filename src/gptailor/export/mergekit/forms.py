"""What a merge of ours is in mergekit's words, with the same roundings in the same order.

mergekit's task arithmetic is ``base + lambda * sum(weight * (t - base))``, summed in the order of
its inputs; with other bases and weights it says `linear`, `slerp` and `model_stock` as well, whose
numbers are worked out here, one a tensor. Its `ties` and `breadcrumbs` are ours wherever no two
changes of one size straddle a threshold. Knows nothing of where members lie, nor of documents.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from gptailor.core.tailoring import LayerSpec, Source
from gptailor.errors import ExportError
from gptailor.merge.differences import differences
from gptailor.merge.model_stock import model_stock_step
from gptailor.merge.slerp import slerp_shares

__all__ = ["Form", "Setting", "form_of"]

Setting = float | bool | list[dict[str, Any]]
"""A parameter: a value, or a value for each tensor whose name has the filter in it."""

Layer = Mapping[str, Tensor]

_MAX_SUMMED = 4  # beyond, torch sums several at once, in an order that depends on the threads
_HF = "use --format hf instead"


@dataclass(frozen=True, slots=True)
class Form:
    """One merge as mergekit does it.

    Args:
        method: mergekit's name of the method.
        base: What differences are taken from; None for zeros.
        inputs: The sources that are not the base, and each one's weight.
        parameters: mergekit's other parameters.
    """

    method: str
    base: Source | None
    inputs: tuple[tuple[Source, Setting], ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)


def form_of(spec: LayerSpec, sources: Sequence[Layer], base: Layer | None) -> Form:
    """Say a merge in mergekit's words.

    Args:
        spec: A merge of several sources.
        sources: Their tensors by name, in order.
        base: The tensors of ``spec.base``, where the method has one.

    Raises:
        ExportError: mergekit can't be made to compute the same.
    """
    assert spec.method is not None
    form = _FORMS[spec.method](spec, sources, base)
    if len(form.inputs) > _MAX_SUMMED:
        raise ExportError(
            f"{spec} merges {len(spec.sources)} sources, and mergekit sums more than "
            f"{_MAX_SUMMED} in an order that depends on the machine; {_HF}"
        )
    return form


def _task_arithmetic(spec: LayerSpec, sources: Sequence[Layer], base: Layer | None) -> Form:
    return _summed(spec, {"lambda": _number(spec, "scale")})


def _linear(spec: LayerSpec, sources: Sequence[Layer], base: Layer | None) -> Form:
    weights = dict(spec.params)["weights"]
    assert isinstance(weights, tuple)
    total = math.fsum(weights)
    others = zip(spec.sources[1:], weights[1:], strict=True)
    inputs = tuple((source, weight / total) for source, weight in others)
    return Form("task_arithmetic", spec.sources[0], inputs, {"normalize": False})


def _slerp(spec: LayerSpec, sources: Sequence[Layer], base: Layer | None) -> Form:
    t = _number(spec, "t")
    shares = {
        name: slerp_shares(start.float(), sources[1][name].float(), t)
        for name, start in sources[0].items()
    }
    inputs = tuple(
        (source, _each({name: both[index] for name, both in shares.items()}))
        for index, source in enumerate(spec.sources)
    )
    return Form("task_arithmetic", None, inputs, {"normalize": False})


def _model_stock(spec: LayerSpec, sources: Sequence[Layer], base: Layer | None) -> Form:
    steps = {name: model_stock_step(deltas) for name, deltas in _deltas(sources, base).items()}
    return _summed(spec, {"lambda": _each(steps)})


def _ties(spec: LayerSpec, sources: Sequence[Layer], base: Layer | None) -> Form:
    density = _number(spec, "density")
    if density > 0:
        _refuse_equals(spec, sources, base, lambda n: (max(1, int(density * n)),))
    return _elected(spec, density=density, normalize=True)


def _breadcrumbs(spec: LayerSpec, sources: Sequence[Layer], base: Layer | None) -> Form:
    density, gamma = _number(spec, "density"), _number(spec, "gamma")

    def thresholds(n: int) -> tuple[int, ...]:
        n_kept = int(density * n)
        n_outliers = min(int(gamma * n), n - n_kept)
        return (n_outliers, n_outliers + n_kept) if n_kept else ()

    _refuse_equals(spec, sources, base, thresholds)
    numbers = {"density": density, "gamma": gamma, "lambda": _number(spec, "scale")}
    return _summed(spec, {**numbers, "rescale": False}, method="breadcrumbs")


def _dare(spec: LayerSpec, sources: Sequence[Layer], base: Layer | None) -> Form:
    density = _number(spec, "density")
    if density not in (0.0, 1.0):
        raise ExportError(
            f"{spec} drops changes at random, and mergekit draws and rescales them in "
            f"another way; {_HF}"
        )
    if density == 0.0:
        return _summed(spec, {"lambda": 0.0})
    if spec.method == "dare_ties":
        return _elected(spec, density=density, normalize=False)
    return _summed(spec, {"lambda": _number(spec, "scale")})


_FORMS: Mapping[str, Callable[[LayerSpec, Sequence[Layer], Layer | None], Form]] = {
    "task_arithmetic": _task_arithmetic,
    "linear": _linear,
    "slerp": _slerp,
    "ties": _ties,
    "dare_ties": _dare,
    "dare_linear": _dare,
    "breadcrumbs": _breadcrumbs,
    "model_stock": _model_stock,
}


def _summed(
    spec: LayerSpec, parameters: Mapping[str, Setting], *, method: str = "task_arithmetic"
) -> Form:
    inputs = tuple((source, 1.0) for source in spec.sources)
    return Form(method, spec.base, inputs, {**parameters, "normalize": False})


def _elected(spec: LayerSpec, *, density: float, normalize: bool) -> Form:
    inputs = tuple((source, 1.0) for source in spec.sources)
    parameters = {"density": density, "lambda": _number(spec, "scale"), "normalize": normalize}
    return Form("ties", spec.base, inputs, parameters)


def _number(spec: LayerSpec, name: str) -> float:
    value = dict(spec.params)[name]
    assert not isinstance(value, tuple)
    return float(value)


def _each(values: Mapping[str, float]) -> Setting:
    """A value for each tensor; the last entry is for tensors of other parts."""
    names = sorted(values, key=lambda name: (-len(name), name))  # a name may end in another's
    filters = [{"filter": name, "value": values[name]} for name in names]
    return [*filters, {"value": 1.0}]


def _deltas(sources: Sequence[Layer], base: Layer | None) -> dict[str, list[Tensor]]:
    assert base is not None
    return {
        name: differences([source[name].float() for source in sources], tensor.float())
        for name, tensor in base.items()
    }


def _refuse_equals(
    spec: LayerSpec,
    sources: Sequence[Layer],
    base: Layer | None,
    thresholds: Callable[[int], Sequence[int]],
) -> None:
    """Refuse a choice among changes of one size: we take the first of them, mergekit others."""
    assert base is not None
    for name, tensor in base.items():
        for source, layer in zip(spec.sources, sources, strict=True):
            sizes = (layer[name].float() - tensor.float()).abs().flatten().cpu().numpy()
            if any(_straddled(sizes, count) for count in thresholds(sizes.size)):
                raise ExportError(
                    f"{spec} keeps some of several changes that are equally large in "
                    f"{name} of {source}, and mergekit keeps others of them; {_HF}"
                )


def _straddled(sizes: np.ndarray[Any, Any], count: int) -> bool:
    """Whether the `count` largest are not told by their sizes alone."""
    if not 0 < count < sizes.size:
        return False
    threshold = np.partition(sizes, sizes.size - count)[sizes.size - count]
    return bool(threshold > 0 and (sizes >= threshold).sum() > count)
