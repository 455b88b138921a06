"""Random search: what any other searcher must beat.

Knows nothing of what scored well; it draws from the space until the budget is spent.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from gptailor.core.objective import Objective
from gptailor.core.params import Range
from gptailor.core.trial import Proposal, Trial
from gptailor.searchers.ask_tell import AskTell, Group, ProposalGenerator, checked_rungs
from gptailor.searchers.declaration import check_options, rung_limits
from gptailor.searchers.history import History
from gptailor.searchers.space import Space

__all__ = ["RandomSearch"]

_GROUP = Range(1, 1000, default=8, integer=True)


@dataclass(eq=False)
class RandomSearch:
    """Draw tailorings at random, all judged on the same examples.

    Args:
        space: What may be proposed.
        objective: Not used: nothing is ranked here.
        rungs: Rising numbers of examples a task.
        max_trials: The most proposals asked.
        seed: Equal seeds propose the same.
        rung: Which of `rungs` all are judged on; -1 is the last.
        group: Tailorings asked together.

    Raises:
        ConfigError: An option is out of its limits.
    """

    _: KW_ONLY
    space: Space
    objective: Objective
    rungs: tuple[int, ...]
    max_trials: int
    seed: int
    rung: int = -1
    group: int = 8
    _dialogue: AskTell = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rungs = checked_rungs(self.rungs, self.max_trials)
        check_options(
            "random",
            {"rung": self.rung, "group": self.group},
            {"rung": rung_limits(rungs), "group": _GROUP},
        )
        history = History()
        plan = self._plan(history, rungs[self.rung])
        self._dialogue = AskTell(plan, history, max_trials=self.max_trials)

    def ask(self) -> Group:
        """Draw the next group."""
        return self._dialogue.ask()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the last group; nothing is learned from them."""
        self._dialogue.tell(trials)

    def _plan(self, history: History, n_examples: int) -> ProposalGenerator:
        rng = np.random.default_rng(self.seed)
        while True:
            drawn = [self.space.random(rng) for _ in range(self.group)]
            yield tuple(Proposal(tailoring, n_examples, "random") for tailoring in drawn)
