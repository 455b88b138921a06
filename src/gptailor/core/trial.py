"""Proposal, Job, Evaluation, Scores, Trial: what is asked of an evaluation and what comes back."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gptailor.core.metrics import aggregate
from gptailor.core.tailoring import Tailoring

__all__ = ["GUARD", "Evaluation", "Job", "Measurement", "Proposal", "Scores", "Trial"]


GUARD = "guard"  # the split of a job on greedy text, which no task of the user has


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric of one task: a number for each example, and their aggregate.

    Args:
        metric: A name in `gptailor.core.metrics.METRICS`.
        values: One number an example, in the task's order, so that candidates compare in pairs.
        weights: How much each example counts; None when all count the same.
    """

    metric: str
    values: tuple[float, ...]
    weights: tuple[float, ...] | None = None

    @property
    def value(self) -> float:
        """The metric over all the examples."""
        return aggregate(self.metric, self.values, self.weights)

    def to_plain(self) -> dict[str, Any]:
        """The JSON form; an infinite value is None."""
        value = self.value
        plain = {"value": value if math.isfinite(value) else None, "values": list(self.values)}
        return plain if self.weights is None else plain | {"weights": list(self.weights)}


@dataclass(frozen=True, slots=True)
class Scores:
    """What one tailoring scored: task by task, metric by metric, example by example.

    Args:
        tasks: Task name to metric name to `Measurement`.
    """

    tasks: Mapping[str, Mapping[str, Measurement]] = field(default_factory=dict)

    def value(self, task: str, metric: str) -> float:
        """The value of one metric of one task."""
        return self.tasks[task][metric].value

    @property
    def n_examples(self) -> int:
        """Examples of the task that has the most of them."""
        return max(
            (len(m.values) for metrics in self.tasks.values() for m in metrics.values()), default=0
        )

    @property
    def total_examples(self) -> int:
        """Examples of all tasks together."""
        counts = ({len(m.values) for m in metrics.values()} for metrics in self.tasks.values())
        return sum(max(count, default=0) for count in counts)

    def to_plain(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            task: {name: measurement.to_plain() for name, measurement in metrics.items()}
            for task, metrics in self.tasks.items()
        }


@dataclass(frozen=True, slots=True)
class Proposal:
    """A tailoring, and on how many examples of each task it is to be evaluated.

    Args:
        tailoring: The candidate.
        n_examples: Examples of each task: the first n of its nested order.
        origin: How the searcher came to it, in a word or two: ``"swap of 3f2a"``.
    """

    tailoring: Tailoring
    n_examples: int
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation wanted.

    Args:
        tailoring: The candidate.
        n_examples: Examples of each task; all there are if a task has fewer.
        split: ``search``, ``selection``, ``test``, or ``guard`` for the tasks of greedy text.
        known: Scores of the same tailoring on fewer examples of the same split; only the others
            are run.
    """

    tailoring: Tailoring
    n_examples: int
    split: str = "search"
    known: Scores | None = None

    @classmethod
    def of(cls, proposal: Proposal, known: Scores | None) -> "Job":
        """Make the job of a proposal on the search split; use known scores of fewer examples."""
        if known is not None and known.n_examples >= proposal.n_examples:
            known = None
        return cls(proposal.tailoring, proposal.n_examples, "search", known)

    @property
    def n_known(self) -> int:
        """Examples of each task that need not be run."""
        return 0 if self.known is None else self.known.n_examples


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result of a job: scores, or the reason why there are none.

    Args:
        scores: Every metric of every task; None if it failed.
        failure: Why it failed; None if it has scores. There are never both.
        seconds: Wall-clock time; its share, where candidates were run together.
        layer_tokens: Tokens times layers that were run for it, after all sharing.
    """

    scores: Scores | None = None
    failure: str | None = None
    seconds: float = 0.0
    layer_tokens: int = 0

    def __post_init__(self) -> None:
        assert (self.scores is None) != (self.failure is None), "scores or a failure, never both"


@dataclass(frozen=True, slots=True)
class Trial:
    """The recorded evaluation of one proposal.

    Args:
        number: Its position in the record, from 0.
        proposal: What was asked.
        evaluation: What came of it.
    """

    number: int
    proposal: Proposal
    evaluation: Evaluation

    @property
    def tailoring(self) -> Tailoring:
        """The candidate."""
        return self.proposal.tailoring

    @property
    def scores(self) -> Scores | None:
        """What it scored; None if it failed."""
        return self.evaluation.scores

    @property
    def failure(self) -> str | None:
        """Why it failed; None if it has scores."""
        return self.evaluation.failure

    @property
    def complete(self) -> bool:
        """Whether it has scores."""
        return self.scores is not None
