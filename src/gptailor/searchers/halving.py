"""Successive halving over rungs of examples, with candidates compared pair by pair.

Many candidates start on few examples, and the better part goes on to the next rung (Jamieson and
Talwalkar 2016, https://arxiv.org/abs/1502.07943). On the lower rungs candidates are ranked by the
continuous proxy metric, for few examples say little about an accuracy; on the last rung by the
user's own metric.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gptailor.core.objective import draw_weights, near_first, normalised, parego
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Proposal, Scores
from gptailor.searchers.searcher import ProposalGenerator, SearchContext
from gptailor.searchers.space import complexity

__all__ = ["Judge", "SuccessiveHalving"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judge:
    """Ranks candidates by their losses on the same examples."""

    context: SearchContext  # has the objective and the trials so far
    # on the last rung, candidates within so many standard errors of the best are ranked by
    # the proxy metric
    tie_z: float = 0.0
    # ParEGO's weights of the tasks, shape (n_tasks,); None for the objective's own
    weights: Floats | None = None

    def ranked(self, tailorings: Iterable[Tailoring], n_examples: int) -> list[Tailoring]:
        """Sort the candidates that have scores on the first `n_examples`, the best first.

        Of equals the simpler is first, then the one that comes first in `tailorings`.
        """
        scores = {each: self.context.history.scores(each, n_examples) for each in tailorings}
        known = {each: found for each, found in scores.items() if found is not None}
        last = n_examples >= self.context.rungs[-1]
        sized = dict.fromkeys(known, n_examples)
        by_proxy = self._known_losses(known, sized, proxy=True)
        own = self._known_losses(known, sized, proxy=False) if last else by_proxy
        keys = {
            each: (loss, proxy, complexity(each))
            for each, loss, proxy in zip(known, own, by_proxy, strict=True)
        }
        order = sorted(known, key=keys.__getitem__)
        if not last or self.tie_z <= 0 or len(order) < 2:
            return order
        best = order[0]
        return near_first(
            order,
            lambda each: self._ties(known, each, best, n_examples),
            lambda each: keys[each][1:],
        )

    def proxy_losses(self, tailorings: Iterable[Tailoring]) -> dict[Tailoring, float]:
        """Loss by the proxy metric of each candidate, on the most examples it has scores on."""
        known = {each: scores for each in tailorings if (scores := self._most(each)) is not None}
        sized = {each: self.context.history.most_examples(each) for each in known}
        return dict(zip(known, self._known_losses(known, sized, proxy=True), strict=True))

    def worse(self, child: Tailoring, parent: Tailoring, n_examples: int, z: float) -> bool:
        """Whether a child is worse than its parent by `z` standard errors, by the proxy metric.

        They are compared pair by pair on the child's `n_examples`, which both have seen.
        """
        ours, theirs = self.context.history.scores(child, n_examples), self._most(parent)
        if self.weights is not None or ours is None or theirs is None:
            return False
        gap, error = self.context.objective.difference(ours, theirs, proxy=True)
        return gap > z * error

    def _most(self, tailoring: Tailoring) -> Scores | None:
        history = self.context.history
        n_examples = history.most_examples(tailoring)
        return history.scores(tailoring, n_examples) if n_examples else None

    def _ties(
        self, known: Mapping[Tailoring, Scores], one: Tailoring, best: Tailoring, n_examples: int
    ) -> bool:
        memo, key = self.context.history.memo, (one, n_examples, (best, self.tie_z))
        if key not in memo:
            gap, error = self.context.objective.difference(known[one], known[best])
            memo[key] = float(gap - self.tie_z * error)
        return memo[key] <= 0

    def _known_losses(
        self, known: Mapping[Tailoring, Scores], sized: Mapping[Tailoring, int], *, proxy: bool
    ) -> list[float]:
        """One loss each; the objective's own are computed once in a search.

        `sized` are the numbers of examples. Every generation ranks all that were evaluated.
        """
        if self.weights is not None:
            return self._losses(known.values(), proxy=proxy)
        memo = self.context.history.memo
        keys = {each: (each, sized[each], proxy) for each in known}
        new = [each for each in known if keys[each] not in memo]
        for each, loss in zip(
            new, self._losses([known[each] for each in new], proxy=proxy), strict=True
        ):
            memo[keys[each]] = loss
        return [memo[key] for key in keys.values()]

    def _losses(self, scores: Iterable[Scores], *, proxy: bool) -> list[float]:
        """One loss each, infinite where it is not a number."""
        objective = self.context.objective
        if self.weights is None:
            losses = [objective.scalar(each, proxy=proxy) for each in scores]
        else:
            done = [t.scores for t in self.context.history.complete() if t.scores is not None]
            run = np.array([objective.losses(each, proxy=proxy) for each in done])
            rows = np.array([objective.losses(each, proxy=proxy) for each in scores])  # (N, tasks)
            losses = parego(normalised(rows, run), self.weights).tolist() if len(rows) else []
        return [loss if math.isfinite(loss) else math.inf for loss in losses]


@dataclass(frozen=True, slots=True)
class SuccessiveHalving:
    """Evaluates candidates rung by rung; the best fraction goes on each time."""

    context: SearchContext  # what the search is about
    keep_fraction: float  # which fraction goes on to the next rung, at least one candidate
    # candidates worse than their parent by so many standard errors do not go on
    drop_z: float = 1.0
    tie_z: float = 0.0  # see `Judge`
    parego: bool = False  # whether each judge has newly drawn weights of the tasks

    def judge(self, rng: Generator) -> Judge:
        """Make the judge of one run."""
        n_tasks = len(self.context.objective.goals)
        weights = draw_weights(n_tasks, rng) if self.parego and n_tasks > 1 else None
        return Judge(self.context, self.tie_z, weights)

    def bracket(self, n_trials: float, wanted: int) -> tuple[int, int]:
        """Fit a run into a number of trials, of the unit of `SearchContext.cost`.

        Returns:
            The index of the rung it starts on, 0 where there are trials for all rungs, and its
            number of candidates: at least one, at most `wanted`.
        """
        first, size = 0, 1
        while first < len(self.context.rungs) - 1 and self._cost(size, first) > n_trials:
            first += 1
        while size < wanted and self._cost(size + 1, first) <= n_trials:
            size += 1
        return first, size

    def run(
        self,
        candidates: Sequence[tuple[Tailoring, str]],
        judge: Judge,
        first: int = 0,
        parent: Tailoring | None = None,
    ) -> ProposalGenerator:
        """Evaluate candidates.

        Args:
            candidates: Tailorings, and the origin of each.
            judge: Ranks them.
            first: Index of the rung to start on.
            parent: What they are compared with; asked with them where it was evaluated on fewer
                examples.
        """
        origins = dict(candidates)
        left = list(origins)
        for n_examples in self.context.rungs[first:]:
            group = [Proposal(tailoring, n_examples, origins[tailoring]) for tailoring in left]
            if parent is not None and self.context.history.most_examples(parent) < n_examples:
                group.append(Proposal(parent, n_examples, "parent"))
            yield tuple(group)
            left = judge.ranked(left, n_examples)
            left = left[: self._n_kept(len(left))]
            if parent is not None:
                z = self.drop_z
                left = [each for each in left if not judge.worse(each, parent, n_examples, z)]
            if not left:
                return

    def _cost(self, n_candidates: int, first: int) -> float:
        total, known = 0.0, 0
        for n_examples in self.context.rungs[first:]:
            total += n_candidates * self.context.cost(n_examples, known)
            n_candidates, known = self._n_kept(n_candidates), n_examples
        return total

    def _n_kept(self, n_candidates: int) -> int:
        return max(1, math.ceil(n_candidates * self.keep_fraction - 1e-9))
