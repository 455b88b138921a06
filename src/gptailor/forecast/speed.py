"""The speed of this machine: seconds a unit of work, fitted to timed evaluations of the base."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Evaluator, Work
from gptailor.family import Family
from gptailor.family.family import layer_weights
from gptailor.searchers.space import Space
from gptailor.study import Plan

__all__ = ["Speed", "fitted", "measure_speed"]

_ROUNDS = 3
_FULL = 1024  # tokens with which a processor is as fast as with a full batch
_MERGES = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for a unit of each kind of `Work`.

    Args:
        layer_token: One token more through one layer.
        run: One layer called, however few the tokens.
        input_token: One token embedded, with its masks and rotary embedding.
        target_token: One predicted position: norm, head, log-probabilities, and its score.
        merged: One merged layer made.
    """

    layer_token: float
    run: float = 0.0
    input_token: float = 0.0
    target_token: float = 0.0
    merged: float = 0.0

    def seconds(self, work: Work, n_merged: int) -> float:
        """Seconds that work takes, `n_merged` of its merged layers having to be made."""
        return (
            work.layer_tokens * self.layer_token
            + work.n_runs * self.run
            + work.input_tokens * self.input_token
            + work.target_tokens * self.target_token
            + n_merged * self.merged
        )


def measure_speed(plan: Plan, space: Space, evaluator: Evaluator) -> Speed:
    """Time few and many layers, one candidate and two, on few examples and on more.

    The best of a few rounds is fitted, and then scaled to a round's median time: a disturbed round
    would spoil the fit.
    """
    short, long = (_spread(plan.n_layers, max(1, plan.n_layers // n)) for n in (10, 3))
    groups = [
        [Job(tailoring, n_examples) for tailoring in tailorings]
        for n_examples in sorted({_n_examples(evaluator, rung) for rung in plan.rungs})
        for tailorings in ([short], [short, short], [long])
    ]
    work = [evaluator.count(group) for group in groups]  # packs the batches, too
    rounds = [[_timed(evaluator, group) for group in groups] for _ in range(_ROUNDS)]
    best = np.array(rounds).min(axis=0)
    units = [[w.layer_tokens, w.n_runs, w.input_tokens, w.target_tokens] for w in work]
    pace = statistics.median(sum(times) for times in rounds) / sum(best)
    seconds = pace * fitted(np.array(units, np.float64), best)
    layer_token, run, input_token, target_token = seconds.tolist()
    merged = _seconds_a_merge(space, evaluator.engine.family)
    return Speed(layer_token, run, input_token, target_token, merged)


def _n_examples(evaluator: Evaluator, most: int) -> int:
    """Enough examples for a full batch, but no more than `most`."""
    n_examples = 1
    while n_examples < most and evaluator.tokens("search", 0, n_examples) < _FULL:
        n_examples *= 2
    return min(n_examples, most)


def _spread(n_layers: int, n: int) -> Tailoring:
    """The base with `n` layers, evenly spaced from the first to the last."""
    layers = np.unique(np.linspace(0, n_layers - 1, n).astype(int)).tolist()
    return Tailoring(tuple(LayerSpec((Source(BASE, layer),)) for layer in layers))


def _timed(evaluator: Evaluator, jobs: Sequence[Job]) -> float:
    started = time.perf_counter()
    evaluator.evaluate(jobs)
    return time.perf_counter() - started


def fitted(units: Floats, seconds: Floats) -> Floats:
    """Seconds a unit of each kind, (n_kinds,), from (n, n_kinds) and (n,): least squares, >= 0.

    Relative errors are minimised. A kind that would come out negative counts as free, and the
    others are fitted again.
    """
    result = np.zeros(units.shape[1])
    sizes = units.max(axis=0)
    kinds = np.arange(units.shape[1])
    while True:
        rows = (units / sizes)[:, kinds] / seconds[:, None]
        found = np.linalg.lstsq(rows, np.ones(len(seconds)), rcond=None)[0]
        if (found >= 0).all():
            result[kinds] = found / sizes[kinds]
            return result
        kinds = kinds[found > 0]


def _seconds_a_merge(space: Space, family: Family) -> float:
    """Mean seconds of merges drawn as a search draws them."""
    if not space.merges:
        return 0.0
    rng = np.random.default_rng(0)
    times = []
    for layer in np.linspace(0, space.n_layers - 1, _MERGES).astype(int).tolist():
        spec = space.random_merge(layer, rng)
        started = time.perf_counter()
        layer_weights(family, spec, family.dtype)
        times.append(time.perf_counter() - started)
    return statistics.mean(times)
