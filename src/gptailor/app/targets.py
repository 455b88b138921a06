"""Resolve a target to the smallest number of layers to cut that meets it."""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gptailor.config import Config
from gptailor.config.target_config import TargetConfig
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.validation import bytes_of
from gptailor.engine import Engine
from gptailor.engine.device import device_of
from gptailor.engine.generate import model_of
from gptailor.errors import ConfigError
from gptailor.evaluation.timing import ROUNDS, in_turns, transformers_rates
from gptailor.export.checkpoint import SAVED_DTYPES
from gptailor.family import Family
from gptailor.family.kv_cache import cache_bytes

__all__ = ["Sizes", "resolve_target", "sizes_of"]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What models of a family take, in parameters or in bytes."""

    outer: int  # outside of the layers
    layers: tuple[int, ...]  # each layer of the base

    def left(self, positions: Iterable[int]) -> int:
        """What a model with the layers at these positions takes."""
        return self.outer + sum(self.layers[position] for position in positions)


def resolve_target(config: Config, family: Family) -> tuple[Config, str]:
    """Add the number of layers that a config's target comes to, and say how, in a sentence.

    Where layers differ, those that weigh least are counted as cut: so no candidate misses the
    target. A config that has a number already is left as it is.

    Raises:
        ConfigError: The base meets the target already, or nothing does.
    """
    target = config.target
    if target is None or config.remove is not None:
        return config, ""
    room, sizes = config.room(family.n_layers), sizes_of(target, family)
    weights = sizes["parameters" if target.kind == "parameters" else "memory"].layers
    free = [layer for layer in range(family.n_layers) if layer not in config.keep]
    order = sorted(free, key=lambda layer: (weights[layer], -layer))  # light, late
    if target.kind in sizes:
        n, sentence = _by_size(target, sizes[target.kind], order[:room])
    else:
        order.append(order.pop(order.index(free[-1])))  # some families need the last layer
        n, sentence = _by_speed(target, family, order[:room], device_of(config.engine.device))
    return config.model_copy(update={"remove": n}), sentence


def sizes_of(target: TargetConfig, family: Family) -> dict[str, Sizes]:
    """Parameters; and as ``memory`` the bytes of exported weights and of the key-value cache."""
    around, layers = family.multimodal_wrapper, family.layer_parameters
    outer = family.parameters - sum(layers) + (0 if around is None else around.parameters)
    dtype = family.dtype if target.dtype is None else SAVED_DTYPES[target.dtype]
    cached = cache_bytes(family, context=target.context, batch=target.batch, dtype=dtype)
    n_bytes = dtype.itemsize
    with_cache = tuple(n * n_bytes + one for n, one in zip(layers, cached, strict=True))
    return {"parameters": Sizes(outer, layers), "memory": Sizes(outer * n_bytes, with_cache)}


def _by_size(target: TargetConfig, sizes: Sizes, order: Sequence[int]) -> tuple[int, str]:
    limit = target.parameters or bytes_of(target.memory or "")
    unit = "parameters" if target.kind == "parameters" else "bytes"
    every = range(len(sizes.layers))
    left = [sizes.left(set(every) - set(order[:n])) for n in range(len(order) + 1)]
    if left[0] <= limit:
        raise ConfigError(f"target: the base has {left[0]:,} {unit} and meets {target} already")
    if left[-1] > limit:
        raise ConfigError(
            f"target: {target} can't be met: without {len(order)} of {len(every)} layers, "
            f"{left[-1]:,} {unit} are left"
        )
    n = next(n for n, size in enumerate(left) if size <= limit)
    return n, (
        f"{target}: without {n} of {len(every)} layers, at most {left[n]:,} {unit} of {left[0]:,}"
    )


def _by_speed(
    target: TargetConfig, family: Family, order: Sequence[int], device: str
) -> tuple[int, str]:
    """Time the base and the largest cut, then the cuts around what a line through both says."""
    engine = Engine(family, device=family.states[BASE][family.layout.embedding].device)
    wanted = target.speedup or target.tokens_per_s or 0.0
    whole = Tailoring.whole(BASE, family.n_layers)
    rates: dict[int, list[float]] = {0: [1.0]} if target.speedup else {}

    def rate(n: int) -> float:
        """The median of what the target limits, over rounds in which base and cut take turns."""
        if n not in rates:
            runs = {}
            for cut in {0, n} if target.speedup else {n}:
                kept = [spec for i, spec in enumerate(whole.layers) if i not in order[:cut]]
                tailoring = dataclasses.replace(whole, layers=tuple(kept))
                runs[cut] = transformers_rates(model_of(engine, tailoring).to(device))
            found = {cut: [new for _, new in rounds] for cut, rounds in in_turns(runs).items()}
            rates[n] = found[n]
            if target.speedup:
                rates[n] = [one / base for one, base in zip(found[n], found[0], strict=True)]
        return statistics.median(rates[n])

    room, n_layers = len(order), family.n_layers
    unit = "times as fast as the base" if target.speedup else "tokens a second"
    if rate(room) < wanted:
        raise ConfigError(
            f"target: {target} can't be met: without {room} of {n_layers} layers, it is "
            f"{rate(room):.3g} {unit}"
        )
    if rate(0) >= wanted:
        raise ConfigError(f"target: the base makes {rate(0):.3g} {unit} and meets {target} already")
    # the time of a token is linear in the layers
    n = round((1 / rate(0) - 1 / wanted) / (1 / rate(0) - 1 / rate(room)) * room)
    while rate(n) < wanted:  # at the largest cut it is not
        n += 1
    while rate(n - 1) >= wanted:  # nor is it at the base
        n -= 1
    low, high = min(rates[n]), max(rates[n])
    return n, (
        f"{target}: without {n} of {n_layers} layers, {rate(n):.3g} {unit} ({low:.3g} to "
        f"{high:.3g} in {ROUNDS} rounds of a plain cut on {device})"
    )
