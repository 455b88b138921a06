"""What a searcher was told: every trial, found again by its tailoring and number of examples.

A trial on n examples also says what the candidate scored on the first m < n of them, because
subsets are nested: `History.scores` uses that, so nothing is asked twice. Knows nothing of losses.
"""

from collections.abc import Iterable

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Measurement, Proposal, Scores, Trial

__all__ = ["History", "first_examples"]


class History:
    """The trials told so far."""

    def __init__(self) -> None:
        self._trials: dict[tuple[Tailoring, int], Trial] = {}
        self._most: dict[Tailoring, int] = {}
        self._tried: set[Tailoring] = set()

    def add(self, trials: Iterable[Trial]) -> None:
        """Take in trials that were told."""
        for trial in trials:
            n_examples = trial.proposal.n_examples
            self._trials[trial.tailoring, n_examples] = trial
            self._tried.add(trial.tailoring)
            if trial.complete:
                most = self._most.get(trial.tailoring, 0)
                self._most[trial.tailoring] = max(most, n_examples)

    def __len__(self) -> int:
        return len(self._trials)

    @property
    def tailorings(self) -> list[Tailoring]:
        """Every tailoring that has scores, in the order of its first."""
        return list(self._most)

    def tried(self, tailoring: Tailoring) -> bool:
        """Whether it was tried at all, on whatever number of examples; it may have failed."""
        return tailoring in self._tried

    def trial(self, tailoring: Tailoring, n_examples: int) -> Trial | None:
        """The trial of exactly this proposal, complete or failed."""
        return self._trials.get((tailoring, n_examples))

    def answers(self, group: Iterable[Proposal]) -> tuple[Trial, ...]:
        """Trials of those proposals that were told, in the group's order."""
        found = (self.trial(proposal.tailoring, proposal.n_examples) for proposal in group)
        return tuple(trial for trial in found if trial is not None)

    def complete(self, n_examples: int | None = None) -> tuple[Trial, ...]:
        """Complete trials in the order told; of one number of examples, or of any."""
        return tuple(
            trial
            for trial in self._trials.values()
            if trial.complete and n_examples in (None, trial.proposal.n_examples)
        )

    def most_examples(self, tailoring: Tailoring) -> int:
        """The largest number of examples that this tailoring has scores on; 0 for none."""
        return self._most.get(tailoring, 0)

    def scores(self, tailoring: Tailoring, n_examples: int) -> Scores | None:
        """Scores on the first `n_examples`; None where fewer were tried."""
        trial = self.trial(tailoring, n_examples)
        if trial is not None and trial.scores is not None:
            return trial.scores
        most = self.most_examples(tailoring)
        if most < n_examples:
            return None
        longer = self._trials[tailoring, most].scores
        return None if longer is None else first_examples(longer, n_examples)


def first_examples(scores: Scores, n_examples: int) -> Scores:
    """Leave out all but the first examples of each task."""
    return Scores(
        {
            task: {name: _first(measurement, n_examples) for name, measurement in metrics.items()}
            for task, metrics in scores.tasks.items()
        }
    )


def _first(measurement: Measurement, n_examples: int) -> Measurement:
    weights = measurement.weights
    return Measurement(
        measurement.metric,
        measurement.values[:n_examples],
        None if weights is None else weights[:n_examples],
    )
