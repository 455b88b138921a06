"""A merge in mergekit's words, with the same roundings in the same order.

mergekit's task arithmetic is ``base + lambda * sum(weight * (t - base))``, summed in the order of
its inputs. With other bases and weights it also computes `linear`, `slerp` and `model_stock`, whose
factors are worked out here, one per tensor. Its `ties` and `breadcrumbs` are ours wherever no
threshold falls among equally large changes. See decision 0018.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gptailor.core.tailoring import LayerSpec, Source
from gptailor.errors import ExportError
from gptailor.export.mergekit.member_files import USE_HF
from gptailor.merge.differences import differences, largest_value
from gptailor.merge.model_stock import model_stock_step
from gptailor.merge.slerp import slerp_shares

__all__ = ["Form", "Setting", "form_of"]

Setting = float | bool | list[dict[str, Any]]
"""A parameter: a value, or a value for each tensor whose name has the filter in it."""

Layer = Mapping[str, Tensor]

_MAX_SUMMED = 4  # beyond, torch sums several at once, in an order that depends on the threads


@dataclass(frozen=True, slots=True)
class Form:
    """One merge as mergekit does it."""

    method: str  # mergekit's name
    base: Source | None  # what differences are taken from; None for zeros
    inputs: tuple[tuple[Source, Setting], ...]  # the sources that are not the base, with weights
    parameters: Mapping[str, Setting]  # all others


def form_of(spec: LayerSpec, sources: Sequence[Layer], base: Layer) -> Form:
    """Express a merge of several sources in mergekit's words.

    Tensors, by name, are those of ``spec.sources`` in their order, and of ``spec.base``, if any.

    Raises:
        ExportError: mergekit can't be made to compute the same.
    """
    if spec.method is None or spec.method not in _FORMS:
        raise ExportError(f"mergekit does not have the merge method {spec.method}; {USE_HF}")
    form = _FORMS[spec.method](spec, sources, base)
    if len(form.inputs) > _MAX_SUMMED:
        raise ExportError(
            f"{spec} merges {len(spec.sources)} sources, and mergekit sums more than "
            f"{_MAX_SUMMED} in an order that depends on the machine; {USE_HF}"
        )
    return form


def _task_arithmetic(spec: LayerSpec, sources: Sequence[Layer], base: Layer) -> Form:
    return _of_base(spec, "task_arithmetic", {"lambda": _number(spec, "scale")})


def _linear(spec: LayerSpec, sources: Sequence[Layer], base: Layer) -> Form:
    weights = dict(spec.params)["weights"]
    assert isinstance(weights, tuple)
    total = math.fsum(weights)
    others = zip(spec.sources[1:], weights[1:], strict=True)
    inputs = tuple((source, weight / total) for source, weight in others)
    return Form("task_arithmetic", spec.sources[0], inputs, {"normalize": False})


def _slerp(spec: LayerSpec, sources: Sequence[Layer], base: Layer) -> Form:
    shares = {
        name: slerp_shares(start.float(), sources[1][name].float(), _number(spec, "t"))
        for name, start in sources[0].items()
    }
    inputs = tuple(
        (source, _by_tensor({name: both[index] for name, both in shares.items()}))
        for index, source in enumerate(spec.sources)
    )
    return Form("task_arithmetic", None, inputs, {"normalize": False})


def _model_stock(spec: LayerSpec, sources: Sequence[Layer], base: Layer) -> Form:
    steps = {
        name: model_stock_step(differences([each[name].float() for each in sources], own.float()))
        for name, own in base.items()
    }
    return _of_base(spec, "task_arithmetic", {"lambda": _by_tensor(steps)})


def _ties(spec: LayerSpec, sources: Sequence[Layer], base: Layer) -> Form:
    density = _number(spec, "density")
    if density > 0:
        _refuse_equals(spec, sources, base, lambda n: (max(1, int(density * n)),))
    numbers = {"density": density, "lambda": _number(spec, "scale"), "normalize": True}
    return _of_base(spec, "ties", numbers)


def _breadcrumbs(spec: LayerSpec, sources: Sequence[Layer], base: Layer) -> Form:
    density, gamma = _number(spec, "density"), _number(spec, "gamma")

    def thresholds(n: int) -> tuple[int, ...]:
        n_kept = int(density * n)
        n_outliers = min(int(gamma * n), n - n_kept)
        return (n_outliers, n_outliers + n_kept) if n_kept else ()

    _refuse_equals(spec, sources, base, thresholds)
    numbers = {"density": density, "gamma": gamma, "lambda": _number(spec, "scale")}
    return _of_base(spec, "breadcrumbs", {**numbers, "rescale": False})


def _dare(spec: LayerSpec, sources: Sequence[Layer], base: Layer) -> Form:
    density, scale = _number(spec, "density"), _number(spec, "scale")
    if density not in (0.0, 1.0):
        raise ExportError(
            f"{spec} drops changes at random, and mergekit draws and rescales them in "
            f"another way; {USE_HF}"
        )
    if spec.method == "dare_ties" and density == 1.0:
        return _of_base(spec, "ties", {"density": density, "lambda": scale})
    return _of_base(spec, "task_arithmetic", {"lambda": density * scale})


_FORMS: Mapping[str, Callable[[LayerSpec, Sequence[Layer], Layer], Form]] = {
    "task_arithmetic": _task_arithmetic,
    "linear": _linear,
    "slerp": _slerp,
    "ties": _ties,
    "dare_ties": _dare,
    "dare_linear": _dare,
    "breadcrumbs": _breadcrumbs,
    "model_stock": _model_stock,
}


def _of_base(spec: LayerSpec, method: str, parameters: Mapping[str, Setting]) -> Form:
    inputs = tuple((source, 1.0) for source in spec.sources)
    return Form(method, spec.base, inputs, {"normalize": False, **parameters})


def _number(spec: LayerSpec, name: str) -> float:
    value = dict(spec.params)[name]
    assert not isinstance(value, tuple)
    return float(value)


def _by_tensor(values: Mapping[str, float]) -> Setting:
    """A value for each tensor; the last entry is for tensors of other parts."""
    names = sorted(values, key=lambda name: (-len(name), name))  # a name may end in another's
    return [*({"filter": name, "value": values[name]} for name in names), {"value": 1.0}]


def _refuse_equals(
    spec: LayerSpec,
    sources: Sequence[Layer],
    base: Layer,
    thresholds: Callable[[int], Sequence[int]],
) -> None:
    """Refuse a choice among changes of one size: we take the first of them, mergekit others."""
    for name, tensor in base.items():
        for source, layer in zip(spec.sources, sources, strict=True):
            sizes = (layer[name].float() - tensor.float()).abs().flatten()
            if any(_straddled(sizes, count) for count in thresholds(sizes.numel())):
                raise ExportError(
                    f"{spec} keeps some of several changes that are equally large in "
                    f"{name} of {source}, and mergekit keeps others of them; {USE_HF}"
                )


def _straddled(sizes: Tensor, count: int) -> bool:
    """Whether entries equal to the `count`-th largest are beyond the `count` largest."""
    if not 0 < count < sizes.numel():
        return False
    threshold = largest_value(sizes, count)
    return threshold > 0 and int((sizes >= threshold).sum()) > count
