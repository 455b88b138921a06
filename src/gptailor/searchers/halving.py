"""Successive halving on nested subsets, with candidates compared pair by pair.

A race starts with many candidates on few examples; the better go on to more. On the lower rungs
the continuous proxy ranks them (few examples say little about an accuracy), on the last the user's
own metric. Knows nothing of where candidates come from.
"""

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptailor.core.objective import Objective
from gptailor.core.pareto import normalised, parego
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Proposal, Scores, Trial
from gptailor.searchers.ask_tell import Group
from gptailor.searchers.history import History
from gptailor.searchers.space import complexity

__all__ = ["Judge", "n_entrants", "race"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judge:
    """Ranks candidates that have been tried on the same examples.

    Args:
        objective: What losses are.
        history: The trials told so far.
        rungs: Rising numbers of examples; the last one is judged by the user's own metric.
        tie: On the last rung, candidates within so many standard errors of the best are told
            apart by the proxy.
        weights: ParEGO's weights of the tasks; None for the objective's weighted sum.
    """

    objective: Objective
    history: History
    rungs: tuple[int, ...]
    tie: float = 0.0
    weights: Floats | None = None

    def ranked(self, tailorings: Iterable[Tailoring], n_examples: int) -> list[Tailoring]:
        """Sort those that have scores on the first `n_examples`, the best first.

        Of equals the simpler is first, then the one given first.
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
        if n_examples < self.rungs[-1] or self.tie <= 0 or len(order) < 2:
            return order
        best = known[order[0]]
        tied = [tailoring for tailoring in order if self._ties(known[tailoring], best)]
        rest = [tailoring for tailoring in order if tailoring not in set(tied)]
        return sorted(tied, key=lambda tailoring: keys[tailoring][1:]) + rest

    def proxy_losses(self, tailorings: Iterable[Tailoring]) -> dict[Tailoring, float]:
        """The proxy's loss of each, on the most examples it has scores on."""
        known = {each: scores for each in tailorings if (scores := self._most(each)) is not None}
        return dict(zip(known, self._losses(known.values(), proxy=True), strict=True))

    def worse(self, ours: Tailoring, theirs: Tailoring, n_examples: int, doubt: float) -> bool:
        """Whether ours is surely worse, on the examples both saw, by the proxy.

        Args:
            ours: A candidate.
            theirs: Another.
            n_examples: The examples that ours was tried on.
            doubt: Standard errors by which it must be worse.
        """
        mine, other = self.history.scores(ours, n_examples), self._most(theirs)
        if self.weights is not None or mine is None or other is None:
            return False
        gap, error = self.objective.difference(mine, other, proxy=True)
        return gap > doubt * error

    def _most(self, tailoring: Tailoring) -> Scores | None:
        n_examples = self.history.most_examples(tailoring)
        return self.history.scores(tailoring, n_examples) if n_examples else None

    def _ties(self, scores: Scores, best: Scores) -> bool:
        gap, error = self.objective.difference(scores, best)
        return gap <= self.tie * error

    def _losses(self, scores: Iterable[Scores], *, proxy: bool) -> list[float]:
        """One loss each, infinite where it is not a number."""
        if self.weights is None:
            losses = [self.objective.scalar(item, proxy=proxy) for item in scores]
        else:
            run = np.array([self.objective.losses(item, proxy=proxy) for item in self._run()])
            rows = np.array([self.objective.losses(item, proxy=proxy) for item in scores])
            losses = parego(normalised(rows, run), self.weights).tolist() if len(rows) else []
        return [loss if math.isfinite(loss) else math.inf for loss in losses]

    def _run(self) -> list[Scores]:
        return [trial.scores for trial in self.history.complete() if trial.scores is not None]


def race(
    entrants: Sequence[tuple[Tailoring, str]],
    judge: Judge,
    *,
    share: float,
    doubt: float = 1.0,
    parent: Tailoring | None = None,
    first: int = 0,
) -> Generator[Group, tuple[Trial, ...], None]:
    """Let candidates run from rung to rung, the best share going on each time.

    Args:
        entrants: Candidates and where each comes from.
        judge: Ranks them.
        share: Which share goes on, at least one.
        doubt: Who is worse than the parent by so many standard errors does not go on.
        parent: Whom they are compared with; asked with them where it was tried on fewer examples.
        first: The rung to start on.
    """
    origins = dict(entrants)
    left = list(origins)
    for n_examples in judge.rungs[first:]:
        group = [Proposal(tailoring, n_examples, origins[tailoring]) for tailoring in left]
        if parent is not None and judge.history.most_examples(parent) < n_examples:
            group.append(Proposal(parent, n_examples, "parent"))
        yield tuple(group)
        left = judge.ranked(left, n_examples)
        left = left[: max(1, math.ceil(len(left) * share - 1e-9))]
        if parent is not None:
            left = [each for each in left if not judge.worse(each, parent, n_examples, doubt)]
        if not left:
            return


def n_entrants(n_trials: int, n_rungs: int, share: float) -> int:
    """The most entrants of a race that asks at most `n_trials` proposals; 0 if there is none.

    Example:
        >>> n_entrants(13, 3, 1 / 3)
        9
    """
    entrants = 0
    while _n_asked(entrants + 1, n_rungs, share) <= n_trials:
        entrants += 1
    return entrants


def _n_asked(entrants: int, n_rungs: int, share: float) -> int:
    total = 0
    for _ in range(n_rungs):
        total += entrants
        entrants = max(1, math.ceil(entrants * share - 1e-9))
    return total
