"""Fit the merging coefficients of every layer of the uncut model, by gradients of the loss.

Layer l is ``base + sum over variants v of c[l, v] * (v - base)``, a `linear` merge. The slopes of
the loss by the coefficients c are measured on a few search examples a step, and recorded before
they are used: a fit that was stopped is replayed like a search. AdaMerging (arXiv 2310.02575) fits
such coefficients to the entropy of predictions on test data; here search examples have answers, and
a model that is cut afterwards is repaired towards the one found.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.record.entries import SlopeEntry
from gptailor.searchers.searcher import FittedWhole

__all__ = [
    "MeasureSlopes",
    "fit_coefficients",
    "fit_ended",
    "fitted_before",
    "with_coefficients",
]

# a model and the number of a step -> the slopes of the loss on that step's examples
MeasureSlopes = Callable[[Tailoring, int], SlopeEntry]

_MOST, _SUM = 0.5, 1.5  # of a coefficient at the start, and of those of all variants
# by so much a coefficient changes in the first steps, about; so far it could go in all of them
_RATES, _REACH = (0.03, 0.1), 2.0
_FIRST, _SECOND = 0.9, 0.98  # how slowly Adam's moments forget
_DECIMALS = 4  # of a coefficient, in the tailoring
_MOST_FAILED = 3  # first steps that all fail, after which the others would, too

Floats = NDArray[np.float64]


def fit_coefficients(
    measure: MeasureSlopes,
    variants: Sequence[str],
    *,
    n_layers: int,
    recorded: Iterable[SlopeEntry] = (),
) -> FittedWhole | None:
    """Take steps of Adam (arXiv 1412.6980) whose rate falls to 0 along half a cosine.

    Args:
        measure: Measures slopes, and records them; the first ones say how many steps there are.
        variants: Their names.
        n_layers: Of each member.
        recorded: Slopes of the first steps, from an earlier start.

    Returns:
        None where the slopes of no step, or of none of the first three, could be measured.
    """
    coefficients = np.full((n_layers, len(variants)), min(_MOST, _SUM / len(variants)))
    mean, square = np.zeros_like(coefficients), np.zeros_like(coefficients)
    entries = list(recorded)
    for step in itertools.count():
        if step == len(entries):
            entries.append(measure(with_coefficients(coefficients, variants), step))
        entry, n_steps = entries[step], entries[0].n_steps
        slopes = np.array(entry.slopes)
        mean = _FIRST * mean + (1 - _FIRST) * slopes
        square = _SECOND * square + (1 - _SECOND) * slopes**2
        unbiased = mean / (1 - _FIRST ** (step + 1))
        size = np.sqrt(square / (1 - _SECOND ** (step + 1))) + 1e-12
        rate = float(np.clip(_REACH / n_steps, *_RATES))  # the highest
        coefficients -= rate * 0.5 * (1 + math.cos(math.pi * step / n_steps)) * unbiased / size
        failed = all(entry.failure is not None for entry in entries[: step + 1])
        if failed and step + 1 >= min(n_steps, _MOST_FAILED):
            return None
        if step + 1 >= n_steps:
            break
    layer_tokens = sum(entry.layer_tokens for entry in entries)
    return FittedWhole(with_coefficients(coefficients, variants), layer_tokens)


def fit_ended(recorded: Sequence[SlopeEntry]) -> bool:
    """Whether a fit was begun and has all its steps."""
    return bool(recorded) and len(recorded) >= recorded[0].n_steps


def fitted_before(
    recorded: Sequence[SlopeEntry], variants: Sequence[str], *, n_layers: int
) -> FittedWhole | None:
    """The model of a fit that has ended; None where there was none, or it did not come to its end.

    Args:
        recorded: Slopes of its steps.
        variants: Their names.
        n_layers: Of each member.
    """
    if not fit_ended(recorded):
        return None

    def measured(_: Tailoring, step: int) -> SlopeEntry:
        raise AssertionError(f"step {step} is behind the last one")

    return fit_coefficients(measured, variants, n_layers=n_layers, recorded=recorded)


def with_coefficients(coefficients: Floats, variants: Sequence[str]) -> Tailoring:
    """The uncut model with coefficients of variants, (n_layers, n_variants)."""
    layers = []
    for position, row in enumerate(coefficients):
        rounded = [round(float(one), _DECIMALS) for one in row]
        weights = (round(1.0 - math.fsum(rounded), _DECIMALS), *rounded)
        sources = tuple(Source(member, position) for member in (BASE, *variants))
        layers.append(LayerSpec(sources, "linear", (("weights", weights),)))
    return Tailoring(tuple(layers))
