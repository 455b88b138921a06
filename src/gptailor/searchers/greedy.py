"""Greedy removal: cut the layer that is missed least, evaluate anew, and so on (SLEB).

Song et al. 2024, https://arxiv.org/abs/2402.09025. Every layer comes from one member. Knows
nothing of variants beyond that, nor of merges.
"""

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from gptailor.core.objective import Objective
from gptailor.core.params import Choice, Range
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Proposal, Trial
from gptailor.searchers.ask_tell import AskTell, Group, ProposalGenerator, checked_rungs
from gptailor.searchers.declaration import check_options, rung_limits
from gptailor.searchers.halving import Judge
from gptailor.searchers.history import History
from gptailor.searchers.initial_designs import late_blocks
from gptailor.searchers.space import Space

__all__ = ["Greedy"]

_FINALS = Range(1, 1000, default=3, integer=True)

Cuts = tuple[int, ...]


@dataclass(eq=False)
class Greedy:
    """Cut one layer after another, each time the one whose absence costs least.

    A step asks every candidate with one more layer cut, as one group ranked by the proxy. Its
    proposals have fewer layers cut than wanted until the last step: only trials whose tailoring
    has ``space.n_kept`` layers are results. The best of those are asked once more on the last
    rung, so that whoever picks a result finds it there.

    Where the budget is too small for one layer a step, a step cuts several at once; where it is
    too small for one whole step, only late layers are tried; one trial alone is a late block. The
    last trial of the budget is always kept for a result.

    Args:
        space: What may be proposed.
        objective: What is minimised.
        rungs: Rising numbers of examples a task.
        max_trials: The most proposals asked.
        seed: Not used, unless nothing but a random draw is left that the family allows.
        rung: Which of `rungs` the steps are judged on; -1 is the last.
        start: The member whose layers are cut.
        finals: How many of the best results are asked on the last rung.

    Raises:
        ConfigError: An option is out of its limits.
    """

    _: KW_ONLY
    space: Space
    objective: Objective
    rungs: tuple[int, ...]
    max_trials: int
    seed: int
    rung: int = 0
    start: str = BASE
    finals: int = 3
    _history: History = field(init=False, repr=False, default_factory=History)
    _dialogue: AskTell = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.rungs = checked_rungs(self.rungs, self.max_trials)
        check_options(
            "greedy",
            {"rung": self.rung, "start": self.start, "finals": self.finals},
            {
                "rung": rung_limits(self.rungs),
                "start": Choice(self.space.members, default=BASE),
                "finals": _FINALS,
            },
        )
        self._dialogue = AskTell(self._plan(), self._history, max_trials=self.max_trials)

    def ask(self) -> Group:
        """Propose the candidates of the next step."""
        return self._dialogue.ask()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the group last asked."""
        self._dialogue.tell(trials)

    def _plan(self) -> ProposalGenerator:
        judge = Judge(self.objective, self._history, self.rungs)
        cuts: Cuts = ()
        results: list[Cuts] = []
        while len(cuts) < self.space.n_removed:
            n_cut, candidates = self._step(cuts)
            if not candidates:
                break
            group = {each: self._tailoring(each) for each in candidates}
            yield tuple(
                Proposal(tailoring, self.rungs[self.rung], _told(cuts, each))
                for each, tailoring in group.items()
            )
            losses = judge.proxy_losses(group.values())
            ranked = sorted(candidates, key=lambda each: losses.get(group[each], np.inf))
            results = [each for each in ranked if len(each) == self.space.n_removed]
            cuts = self._joined(ranked[:n_cut])
        finals = list(dict.fromkeys([self._completed(cuts), *results]))[: self.finals]
        yield tuple(
            Proposal(self._tailoring(each), self.rungs[-1], "greedy result") for each in finals
        )

    def _tailoring(self, cuts: Cuts) -> Tailoring:
        return self.space.uniform(cuts, () if self.start == BASE else (self.start,))

    def _step(self, cuts: Cuts) -> tuple[int, list[Cuts]]:
        """How many candidates the next step cuts together, and the candidates, late ones first."""
        budget = self._dialogue.left - 1
        wanted, n_free = self.space.n_removed - len(cuts), len(self.space.free) - len(cuts)
        candidates = self._candidates(cuts)
        for n_steps in range(wanted, 0, -1):
            sizes = [len(part) for part in np.array_split(np.arange(wanted), n_steps)]
            if sum(n_free - sum(sizes[:step]) for step in range(n_steps)) <= budget:
                return sizes[0], candidates
        return wanted, candidates[:budget]

    def _candidates(self, cuts: Cuts) -> list[Cuts]:
        """Cut one layer more; or, where the family allows no such tailoring, a run of more."""
        left = self.space.kept(cuts)
        for length in range(1, self.space.n_removed - len(cuts) + 1):
            *starts, last = range(len(left) - length + 1)
            starts = [
                *reversed(starts),
                last,
            ]  # late layers first, but the very last one at the end
            runs = [left[start : start + length] for start in starts]
            more = [tuple(sorted((*cuts, *run))) for run in runs if not self.space.keep & set(run)]
            allowed = [each for each in more if self.space.accepts(self._tailoring(each))]
            if allowed:
                return allowed
        return []

    def _joined(self, chosen: list[Cuts]) -> Cuts:
        """Cut what several candidates cut; the first one's alone where that is not allowed."""
        joined = tuple(sorted(set().union(*chosen)))
        fits = len(joined) <= self.space.n_removed
        return joined if fits and self.space.accepts(self._tailoring(joined)) else chosen[0]

    def _completed(self, cuts: Cuts) -> Cuts:
        """Cut late layers until there are enough cuts."""
        late = [layer for layer in reversed(late_blocks(self.space)[0]) if layer not in cuts]
        rest = [layer for layer in reversed(self.space.free) if layer not in (*cuts, *late)]
        whole = tuple(sorted([*cuts, *late, *rest][: self.space.n_removed]))
        rng = np.random.default_rng(self.seed)
        drawn: Iterable[Cuts] = (self.space.random_cuts(rng) for _ in range(1000))
        fine = (each for each in (whole, *drawn) if self.space.accepts(self._tailoring(each)))
        return next(fine, whole)


def _told(before: Cuts, after: Cuts) -> str:
    return "without " + ", ".join(str(layer) for layer in after if layer not in before)
