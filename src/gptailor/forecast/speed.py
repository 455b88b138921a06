"""The speed of this machine: seconds a unit of work, fitted to timed evaluations of the base."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Engine, Evaluator, Work
from gptailor.engine.device import wait_for
from gptailor.searchers.space import Space
from gptailor.study import Plan

__all__ = ["Speed", "fitted", "measure_speed"]

_ROUNDS = 3
_FULL = 0.5  # of a batch: with so many tokens a processor is as fast as with a full one
_MERGES = 4

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for a unit of each kind of `Work`."""

    layer_token: float  # one token more through one layer
    run: float = 0.0  # one layer called, however few the tokens
    input_token: float = 0.0  # one token embedded, with its masks and rotary embedding
    target_token: float = 0.0  # one predicted position: norm, head, log-probabilities, score
    merged: float = 0.0  # one merged layer made

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
    """Time few and many layers, one candidate and two, on few examples and on more."""
    short, long = (_spread(plan.n_layers, max(1, plan.n_layers // n)) for n in (10, 3))
    groups = [
        [Job(tailoring, n_examples) for tailoring in tailorings]
        for n_examples in sorted({_n_examples(evaluator, rung) for rung in plan.rungs})
        for tailorings in ([short], [short, short], [long])
    ]
    work = [evaluator.count(group) for group in groups]  # packs the batches, too
    units = [[w.layer_tokens, w.n_runs, w.input_tokens, w.target_tokens] for w in work]
    times = _rounds([partial(evaluator.evaluate, group) for group in groups])
    layer_token, run, input_token, target_token = fitted(np.array(units, float), times).tolist()
    merged = _seconds_a_merge(space, evaluator.engine)
    return Speed(layer_token, run, input_token, target_token, merged)


def _n_examples(evaluator: Evaluator, most: int) -> int:
    """Enough examples for a full batch, but no more than `most`."""
    n_examples, full = 1, _FULL * evaluator.engine.batch_tokens
    while n_examples < most and evaluator.tokens("search", 0, n_examples) < full:
        n_examples *= 2
    return min(n_examples, most)


def _spread(n_layers: int, n: int) -> Tailoring:
    """The base with `n` layers, evenly spaced from the first to the last."""
    layers = np.unique(np.linspace(0, n_layers - 1, n).astype(int)).tolist()
    return Tailoring(tuple(LayerSpec((Source(BASE, layer),)) for layer in layers))


def _rounds(calls: Sequence[Callable[[], object]]) -> Floats:
    """Seconds of each call, (n_rounds, n): every call once a round."""
    times = np.zeros((_ROUNDS, len(calls)))
    for index in np.ndindex(times.shape):
        started = time.perf_counter()
        calls[index[1]]()
        times[index] = time.perf_counter() - started
    return times


def fitted(units: Floats, times: Floats) -> Floats:
    """Seconds a unit of each kind of work, never negative.

    The best times are fitted by least squares of relative errors, and the result is scaled to the
    median time: a few disturbed times change neither. A kind that would come out negative counts
    as free, and the others are fitted again; so none costs much more than the jobs it is part of.

    Args:
        units: Of each job and kind, (n, n_kinds).
        times: Seconds of each round and job, (n_rounds, n).
    """
    best = times.min(axis=0)
    pace = np.median(times / best)
    result = np.zeros(units.shape[1])
    sizes = units.max(axis=0)
    kinds = np.arange(units.shape[1])
    while True:
        rows = (units / sizes)[:, kinds] / best[:, None]
        found = np.linalg.lstsq(rows, np.ones(len(best)), rcond=None)[0]
        if (found >= 0).all():
            result[kinds] = pace * found / sizes[kinds]
            return result
        kinds = kinds[found > 0]


def _seconds_a_merge(space: Space, engine: Engine) -> float:
    """Mean over merges, most often drawn as a search draws them, of the best time of each."""
    if not space.variants:
        return 0.0
    rng = np.random.default_rng(0)
    layers = np.linspace(0, space.n_layers - 1, _MERGES).astype(int).tolist()
    if space.merges:
        specs = [space.random_merge(layer, rng) for layer in layers]
    else:  # one variant is merged only by fitted coefficients
        members = (BASE, *space.variants[:1])
        specs = [LayerSpec(tuple(Source(m, at) for m in members), "linear") for at in layers]
    calls = [partial(_merged, engine, spec) for spec in specs]
    return float(_rounds(calls).min(axis=0).mean())


def _merged(engine: Engine, spec: LayerSpec) -> None:
    engine.layers.weights(spec)
    wait_for(engine.device)
