"""History of a search: every trial, found by its tailoring and number of examples.

Subsets are nested, so a trial on n examples also has the scores on the first m < n of them:
`History.scores` returns these, and nothing is asked twice.
"""

from collections.abc import Hashable, Iterable

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Measurement, Proposal, Scores, Trial

__all__ = ["History", "first_examples"]


class History:
    """The trials so far."""

    def __init__(self) -> None:
        self._trials: dict[tuple[Tailoring, int], Trial] = {}
        self._most: dict[Tailoring, int] = {}
        self._evaluated: set[Tailoring] = set()
        self._n_free = 0
        # (tailoring, examples, what) -> what judges computed of its scores, which never change
        self.memo: dict[tuple[Tailoring, int, Hashable], float] = {}
        self.layer_tokens = 0  # of all trials but the free ones
        self.layer_examples = 0  # layers times examples of each task, as if nothing was shared

    def add(self, trials: Iterable[Trial]) -> None:
        """Add trials."""
        for trial in trials:
            n_examples = trial.proposal.n_examples
            n_new = max(0, n_examples - self.most_examples(trial.tailoring))
            self.layer_tokens += trial.evaluation.layer_tokens
            self.layer_examples += n_new * len(trial.tailoring.layers)
            self._trials[trial.tailoring, n_examples] = trial
            self._evaluated.add(trial.tailoring)
            if trial.complete:
                most = self._most.get(trial.tailoring, 0)
                self._most[trial.tailoring] = max(most, n_examples)

    def add_free(self, trials: Iterable[Trial]) -> None:
        """Add trials of other searches first: they count in no budget."""
        self.add(trials)
        self._n_free = len(self._trials)
        self.layer_tokens = self.layer_examples = 0

    def __len__(self) -> int:
        return len(self._trials) - self._n_free

    @property
    def tailorings(self) -> list[Tailoring]:
        """Every tailoring that has scores, in the order of its first trial with scores."""
        return list(self._most)

    def evaluated(self, tailoring: Tailoring) -> bool:
        """Whether it has a trial on any number of examples, complete or failed."""
        return tailoring in self._evaluated

    def trial(self, tailoring: Tailoring, n_examples: int) -> Trial | None:
        """The trial of exactly this proposal, complete or failed."""
        return self._trials.get((tailoring, n_examples))

    def answers(self, group: Iterable[Proposal]) -> tuple[Trial, ...]:
        """The trials of a group's proposals in its order; those without one are left out."""
        found = (self.trial(proposal.tailoring, proposal.n_examples) for proposal in group)
        return tuple(trial for trial in found if trial is not None)

    def complete(self, n_examples: int | None = None) -> tuple[Trial, ...]:
        """Complete trials in order; of one number of examples, or of any."""
        return tuple(
            each
            for each in self._trials.values()
            if each.complete and n_examples in (None, each.proposal.n_examples)
        )

    def most_examples(self, tailoring: Tailoring) -> int:
        """The largest number of examples that this tailoring has scores on; 0 for none."""
        return self._most.get(tailoring, 0)

    def scores(self, tailoring: Tailoring, n_examples: int) -> Scores | None:
        """Scores on the first `n_examples`; None where it has scores on fewer."""
        trial = self.trial(tailoring, n_examples)
        if trial is not None and trial.scores is not None:
            return trial.scores
        most = self.most_examples(tailoring)
        if most < n_examples:
            return None
        longer = self._trials[tailoring, most].scores
        return None if longer is None else first_examples(longer, n_examples)


def first_examples(scores: Scores, n: int) -> Scores:
    """Scores on the first `n` examples of each task."""

    def first(measured: Measurement) -> Measurement:
        weights = None if measured.weights is None else measured.weights[:n]
        return Measurement(measured.metric, measured.values[:n], weights)

    tasks = scores.tasks.items()
    return Scores({task: {k: first(m) for k, m in metrics.items()} for task, metrics in tasks})
