"""The Searcher protocol: ask for a group of proposals, tell what became of them.

Knows nothing of how a searcher chooses, nor of how proposals are evaluated.
"""

from collections.abc import Sequence
from typing import Protocol

from gptailor.core.trial import Proposal, Trial

__all__ = ["Searcher"]


class Searcher(Protocol):
    """Propose candidates, group by group; a pure function of its seed and of what it was told.

    Every searcher is made with the keywords ``space``, ``objective``, ``rungs`` (rising numbers
    of examples a task; the last is the whole search split), ``max_trials`` and ``seed``, and with
    options of its own that have defaults. `ask` and `tell` alternate strictly, which makes a
    resumed study simple: ask, tell what the record says, and so on to the record's end.

    No proposal (tailoring and number of examples) is asked twice, at most ``max_trials`` are
    asked in all, and a failed trial never counts as a score.
    """

    def ask(self) -> tuple[Proposal, ...]:
        """Propose one group that is best evaluated together; ``()`` when nothing is left to ask."""
        ...

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the group last asked, in its order."""
        ...
