"""Scores of models: from the record, or new ones from the pool."""

import time
from collections.abc import Iterator, Mapping, Sequence

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import GUARD, Evaluation, Job, Scores
from gptailor.errors import RecordError
from gptailor.record.entries import ModelEntry, ModelKind, ResumedEntry, TrialEntry
from gptailor.study.failures import usable
from gptailor.study.guard import StudyJournal
from gptailor.study.plan import Plan
from gptailor.workers import WorkerPool

__all__ = ["Scorer"]


class Scorer:
    """Scores models, and records that a study goes on once it does so again.

    Args:
        journal: The open record.
        pool: Where evaluations run.
        plan: Has the members and the goals.

    Attributes:
        n_examples: Examples that new evaluations were scored on, of all tasks.
    """

    def __init__(self, journal: StudyJournal, pool: WorkerPool, plan: Plan) -> None:
        self._journal, self._pool, self._plan = journal, pool, plan
        self.n_examples = 0
        # recorded at the first new evaluation; scores from other records cost nothing here
        self._resumed = any(entry.layer_tokens for entry in journal.of(ModelEntry))

    def wholes(self, split: str, n_examples: int) -> dict[str | int, Job]:
        """The jobs of every whole member."""
        wholes = {name: Tailoring.whole(name, self._plan.n_layers) for name in self._plan.members}
        return {name: Job(whole, n_examples, split) for name, whole in wholes.items()}

    def scores(self, kind: ModelKind, jobs: Mapping[str | int, Job]) -> dict[str | int, Scores]:
        """Scores of every job.

        Args:
            kind: Of the entries that have them.
            jobs: By the name of a whole member or the number of a trial.

        Raises:
            RecordError: One of them can't be scored.
        """
        found = {}
        for model, entry in self.measured(kind, jobs).items():
            if entry.scores is None:
                name = model if isinstance(model, str) else f"trial {model}"
                kept = " (what was chosen is in the run's folder)" if kind == "test" else ""
                raise RecordError(f"{name} can't be scored: {entry.failure}{kept}")
            found[model] = entry.scores
        return found

    def measured(
        self, kind: ModelKind, jobs: Mapping[str | int, Job]
    ) -> dict[str | int, ModelEntry]:
        """The entries of one kind: recorded scores, or new ones; what failed is tried again."""
        known: dict[str | int, ModelEntry] = {}
        for e in self._journal.of(ModelEntry, kind):  # of one model, those on fewer examples first
            job = jobs.get(e.model)
            # a trial has several models: as in the search, and refitted
            if job is None or e.tailoring not in (None, job.tailoring.digest):
                continue
            if e.scores is not None and e.scores.n_examples >= job.n_examples:
                known.setdefault(e.model, e)
        missing = [model for model in jobs if model not in known]
        done = self.evaluate([jobs[model] for model in missing])
        for model, evaluation in zip(missing, done, strict=True):
            known[model] = ModelEntry.of(kind, model, jobs[model].tailoring.digest, evaluation)
            self._journal.append(known[model])
        return {model: known[model] for model in jobs}

    def evaluate(self, jobs: Sequence[Job]) -> Iterator[Evaluation]:
        """Run jobs in the pool and yield the evaluations one by one, as they come."""
        if not jobs:
            return
        if self._resumed:
            self._resumed = False
            elapsed = max((e.elapsed for e in self._journal.of(TrialEntry)), default=0.0)
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            self._journal.append(ResumedEntry(time=now, elapsed=round(elapsed, 3)))
        for job, evaluation in zip(jobs, self._pool.evaluate(jobs), strict=True):
            done = evaluation if job.split == GUARD else usable(evaluation, self._plan.goals)
            if done.scores is not None:
                known = 0 if job.known is None else job.known.total_examples
                self.n_examples += done.scores.total_examples - known
            yield done
