"""Successive halving over rungs of examples, with candidates compared pair by pair.

Many candidates start on few examples, and the better part goes on to the next rung (Jamieson and
Talwalkar 2016, https://arxiv.org/abs/1502.07943). On the lower rungs candidates are ranked by the
continuous proxy metric, for few examples say little about an accuracy; on the last rung by the
user's own metric.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptailor.core.objective import Objective
from gptailor.core.pareto import normalised, parego
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Proposal, Scores
from gptailor.searchers.history import History
from gptailor.searchers.searcher import ProposalGenerator
from gptailor.searchers.space import complexity

__all__ = ["Judge", "bracket_within", "successive_halving"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judge:
    """Ranks candidates that have been evaluated on the same examples.

    Args:
        objective: Turns scores into losses.
        history: The trials told so far.
        rungs: Rising numbers of examples; on the last one the user's own metric ranks.
        tie_z: On the last rung, candidates within so many standard errors of the best are ranked
            by the proxy metric.
        weights: ParEGO's weights of the tasks, shape (n_tasks,); None for the objective's own.
    """

    objective: Objective
    history: History
    rungs: tuple[int, ...]
    tie_z: float = 0.0
    weights: Floats | None = None

    def ranked(self, tailorings: Iterable[Tailoring], n_examples: int) -> list[Tailoring]:
        """Sort the candidates that have scores on the first `n_examples`, the best first.

        Of equals the simpler is first, then the one that comes first in `tailorings`.
        """
        known = {
            tailoring: scores
            for tailoring in tailorings
            if (scores := self.history.scores(tailoring, n_examples)) is not None
        }
        by_proxy = self._losses(list(known.values()), proxy=True)
        own = by_proxy if n_examples < self.rungs[-1] else self._losses(known.values(), proxy=False)
        keys = {
            tailoring: (loss, proxy, complexity(tailoring))
            for tailoring, loss, proxy in zip(known, own, by_proxy, strict=True)
        }
        order = sorted(known, key=keys.__getitem__)
        if n_examples < self.rungs[-1] or self.tie_z <= 0 or len(order) < 2:
            return order
        best = known[order[0]]
        tied = [tailoring for tailoring in order if self._ties(known[tailoring], best)]
        rest = [tailoring for tailoring in order if tailoring not in set(tied)]
        return sorted(tied, key=lambda tailoring: keys[tailoring][1:]) + rest

    def proxy_losses(self, tailorings: Iterable[Tailoring]) -> dict[Tailoring, float]:
        """Loss by the proxy metric of each candidate, on the most examples it has scores on."""
        known = {each: scores for each in tailorings if (scores := self._most(each)) is not None}
        return dict(zip(known, self._losses(known.values(), proxy=True), strict=True))

    def worse(self, child: Tailoring, parent: Tailoring, n_examples: int, z: float) -> bool:
        """Whether a child is significantly worse than its parent, by the proxy metric.

        Args:
            child: A candidate.
            parent: Another.
            n_examples: The examples that the child was evaluated on; both have seen them.
            z: Standard errors of the paired difference by which it must be worse.
        """
        ours, theirs = self.history.scores(child, n_examples), self._most(parent)
        if self.weights is not None or ours is None or theirs is None:
            return False
        gap, error = self.objective.difference(ours, theirs, proxy=True)
        return gap > z * error

    def _most(self, tailoring: Tailoring) -> Scores | None:
        n_examples = self.history.most_examples(tailoring)
        return self.history.scores(tailoring, n_examples) if n_examples else None

    def _ties(self, scores: Scores, best: Scores) -> bool:
        gap, error = self.objective.difference(scores, best)
        return gap <= self.tie_z * error

    def _losses(self, scores: Iterable[Scores], *, proxy: bool) -> list[float]:
        """One loss each, infinite where it is not a number."""
        if self.weights is None:
            losses = [self.objective.scalar(item, proxy=proxy) for item in scores]
        else:
            run = self._losses_per_task(
                [trial.scores for trial in self.history.complete() if trial.scores is not None],
                proxy=proxy,
            )
            rows = self._losses_per_task(scores, proxy=proxy)
            losses = parego(normalised(rows, run), self.weights).tolist() if len(rows) else []
        return [loss if math.isfinite(loss) else math.inf for loss in losses]

    def _losses_per_task(self, scores: Iterable[Scores], *, proxy: bool) -> Floats:
        return np.array([self.objective.losses(item, proxy=proxy) for item in scores])  # (n, tasks)


def successive_halving(
    candidates: Sequence[tuple[Tailoring, str]],
    judge: Judge,
    *,
    keep_fraction: float,
    drop_z: float = 1.0,
    parent: Tailoring | None = None,
    first: int = 0,
) -> ProposalGenerator:
    """Evaluate candidates rung by rung; the best fraction goes on each time.

    Args:
        candidates: Tailorings, and the origin of each.
        judge: Ranks them.
        keep_fraction: Which fraction goes on to the next rung, at least one.
        drop_z: Candidates worse than the parent by so many standard errors do not go on.
        parent: What they are compared with; asked with them where it was evaluated on fewer
            examples.
        first: Index of the rung to start on.
    """
    origins = dict(candidates)
    left = list(origins)
    for n_examples in judge.rungs[first:]:
        group = [Proposal(tailoring, n_examples, origins[tailoring]) for tailoring in left]
        if parent is not None and judge.history.most_examples(parent) < n_examples:
            group.append(Proposal(parent, n_examples, "parent"))
        yield tuple(group)
        left = judge.ranked(left, n_examples)
        left = left[: _n_kept(len(left), keep_fraction)]
        if parent is not None:
            left = [each for each in left if not judge.worse(each, parent, n_examples, drop_z)]
        if not left:
            return


def bracket_within(
    n_trials: int, wanted: int, *, n_rungs: int, keep_fraction: float
) -> tuple[int, int]:
    """Fit a successive halving into a number of trials.

    Returns:
        The index of the rung it starts on, 0 where there are trials for all rungs, and its number
        of candidates: at least one, at most `wanted`.

    Example:
        >>> bracket_within(13, 20, n_rungs=3, keep_fraction=1 / 3)
        (0, 9)
    """
    n_trials = max(1, n_trials)
    first = max(0, n_rungs - n_trials)
    size = 1
    while size < wanted and _n_asked(size + 1, n_rungs - first, keep_fraction) <= n_trials:
        size += 1
    return first, size


def _n_asked(n_candidates: int, n_rungs: int, keep_fraction: float) -> int:
    total = 0
    for _ in range(n_rungs):
        total += n_candidates
        n_candidates = _n_kept(n_candidates, keep_fraction)
    return total


def _n_kept(n_candidates: int, keep_fraction: float) -> int:
    return max(1, math.ceil(n_candidates * keep_fraction - 1e-9))
