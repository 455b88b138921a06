"""Ask and tell around a plan: what every searcher has in common.

A searcher's plan is a generator that yields groups of proposals and is sent their trials. The
`AskTell` makes it keep the contract: strict alternation, no proposal twice (what was told before
is answered from the history), never more than the budget. Knows nothing of how a plan chooses.
"""

import itertools
from collections.abc import Generator, Sequence

from gptailor.core.trial import Proposal, Trial
from gptailor.errors import ConfigError, GPTailorError
from gptailor.searchers.history import History

__all__ = ["AskTell", "Group", "ProposalGenerator", "checked_rungs"]

Group = tuple[Proposal, ...]
ProposalGenerator = Generator[Group, tuple[Trial, ...], None]

_IDLE = 20  # groups in a row with nothing new in them: the space is used up


class AskTell:
    """Drive a plan by ask and tell.

    Args:
        plan: Yields groups; is sent the trials of each, in its order, less those beyond the budget.
        history: Where trials are kept; the plan may read it.
        max_trials: The most proposals that are asked in all.
    """

    def __init__(self, plan: ProposalGenerator, history: History, *, max_trials: int) -> None:
        self._plan = plan
        self._history = history
        self._left = max_trials
        self._group: Group = ()
        self._asked: Group = ()
        self._finished = False
        self._started = False

    @property
    def left(self) -> int:
        """How many proposals may still be asked."""
        return self._left

    def ask(self) -> Group:
        """The plan's next group, less what is known and what is beyond the budget."""
        if self._asked:
            raise GPTailorError("ask was called twice; tell the trials of the last group first")
        for _ in range(_IDLE):
            if self._finished or self._left <= 0 or not self._advance():
                break
            self._asked = self._unknown()[: self._left]
            if self._asked:
                self._left -= len(self._asked)
                return self._asked
        self._finished = True
        return ()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the group last asked."""
        if not self._asked:
            raise GPTailorError("tell was called with nothing asked; call ask first")
        asked = [(proposal.tailoring, proposal.n_examples) for proposal in self._asked]
        told = [(trial.tailoring, trial.proposal.n_examples) for trial in trials]
        if asked != told:
            raise GPTailorError(
                f"the {len(told)} trials told are not those of the {len(asked)} proposals last "
                "asked, in their order"
            )
        self._history.add(trials)
        self._asked = ()

    def _advance(self) -> bool:
        """Move the plan on to its next group; False when it has ended."""
        try:
            if self._started:
                self._group = self._plan.send(self._history.answers(self._group))
            else:
                self._started = True
                self._group = next(self._plan)
        except StopIteration:
            return False
        return True

    def _unknown(self) -> Group:
        fresh = {
            (proposal.tailoring, proposal.n_examples): proposal
            for proposal in reversed(self._group)
            if self._history.trial(proposal.tailoring, proposal.n_examples) is None
        }
        return tuple(reversed(fresh.values()))


def checked_rungs(rungs: Sequence[int], max_trials: int) -> tuple[int, ...]:
    """Hold rungs and budget against what a search needs.

    Raises:
        ConfigError: There is no rung, or they do not rise, or nothing may be asked.
    """
    numbers = tuple(rungs)
    rising = all(low < high for low, high in itertools.pairwise(numbers))
    if not numbers or numbers[0] < 1 or not rising:
        raise ConfigError(
            f"n_examples must be rising numbers of 1 or more, not {list(numbers)}; "
            "write [10, 30, 100], say"
        )
    if max_trials < 1:
        raise ConfigError(f"max_trials must be 1 or more, not {max_trials}")
    return numbers
