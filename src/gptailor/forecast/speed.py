"""How fast this machine evaluates: seconds a unit of work, measured on the base.

A few short jobs that differ in one kind of work only are timed in turn. Knows nothing of searches.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gptailor.app.assemble import Assembly
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.core.trial import Job
from gptailor.family.layer_weights import layer_weights
from gptailor.forecast.dry_run import Work, work_of

__all__ = ["Speed", "measure_speed"]

_ROUNDS = 3
_FULL = 1024  # tokens that keep a processor as busy as a full batch does
_MERGES = 4


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds for a unit of each kind of `Work`.

    Args:
        layer_token: One token more through one layer.
        run: One layer called, however few tokens.
        input_token: One token embedded, its masks and rotary embedding made.
        target_token: One prediction: norm, head, log-probability, and its way into a score.
        merged: One merged layer made.
    """

    layer_token: float
    run: float
    input_token: float
    target_token: float
    merged: float

    def seconds(self, work: Work) -> float:
        """What work takes."""
        return (
            work.layer_tokens * self.layer_token
            + work.n_runs * self.run
            + work.input_tokens * self.input_token
            + work.target_tokens * self.target_token
            + work.n_merged * self.merged
        )


@dataclass(frozen=True, slots=True)
class _Sample:
    """What one number of examples takes: tokens and targets, and seconds of each kind of work."""

    n_tokens: int
    n_targets: int
    layer_s: float
    inputs_s: float
    targets_s: float


def measure_speed(assembly: Assembly) -> Speed:
    """Time few and many layers, one candidate and two, on few examples and on more."""
    few = _n_examples(assembly, assembly.plan.rungs[0])
    many = _n_examples(assembly, assembly.plan.rungs[-1])
    samples = [_sampled(assembly, n_examples) for n_examples in sorted({few, many})]
    first, last = samples[0], samples[-1]
    slope = last.layer_s / last.n_tokens  # where a call costs nothing
    rise = last.layer_s - first.layer_s
    if last.n_tokens > first.n_tokens and rise > 0:  # else the machine's pace changed between them
        slope = min(slope, rise / (last.n_tokens - first.n_tokens))
    n_tokens, n_targets = (sum(s.n_tokens for s in samples), sum(s.n_targets for s in samples))
    return Speed(
        layer_token=slope,
        run=last.layer_s - slope * last.n_tokens,
        input_token=sum(sample.inputs_s for sample in samples) / n_tokens,
        target_token=sum(sample.targets_s for sample in samples) / n_targets,
        merged=_seconds_a_merge(assembly),
    )


def _n_examples(assembly: Assembly, most: int) -> int:
    """Enough examples for a full batch, but no more than `most`."""
    n_examples = 1
    while n_examples < most and assembly.evaluator.tokens("search", 0, n_examples) < _FULL:
        n_examples *= 2
    return min(n_examples, most)


def _sampled(assembly: Assembly, n_examples: int) -> _Sample:
    """Solve for the kinds of work from jobs that differ in one of them.

    Differences of times blow up whatever disturbs one of them, so they are taken of the best of a
    few rounds, and then slowed down to the usual pace of a round.
    """
    n_layers = assembly.plan.n_layers
    short, long = (
        Job(_spread(n_layers, max(1, n_layers // share)), n_examples) for share in (10, 3)
    )
    groups = ([short], [short, short], [long])
    _timed(assembly, [short])  # packs the batches
    rounds = [[_timed(assembly, group) for group in groups] for _ in range(_ROUNDS)]
    best = [min(times) for times in zip(*rounds, strict=True)]
    pace = statistics.median(sum(times) for times in rounds) / sum(best)
    one, two, longer = (pace * seconds for seconds in best)
    work = work_of(assembly, [short])
    n_short, n_long = len(short.tailoring.layers), len(long.tailoring.layers)
    layer_s = max(longer - one, 0.0) / (n_long - n_short) if n_long > n_short else one / n_short
    targets_s = max(two - one, 0.0)
    inputs_s = max(one - n_short * layer_s - targets_s, 0.0)
    return _Sample(work.input_tokens, work.target_tokens, layer_s, inputs_s, targets_s)


def _spread(n_layers: int, n: int) -> Tailoring:
    """The base's layers, `n` of them, from the first to the last."""
    layers = np.unique(np.linspace(0, n_layers - 1, n).astype(int)).tolist()
    return Tailoring(tuple(LayerSpec((Source(BASE, layer),)) for layer in layers))


def _timed(assembly: Assembly, jobs: Sequence[Job]) -> float:
    started = time.perf_counter()
    assembly.evaluator.evaluate(jobs)
    return time.perf_counter() - started


def _seconds_a_merge(assembly: Assembly) -> float:
    """The mean over merges as a search draws them."""
    space, family = assembly.space, assembly.family
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
