"""Proposal, Job, Scores, Trial: what is asked of an evaluation and what comes back.

All frozen, all plain numbers, all with a JSON form that reads back equal: a trial from the record
is the trial that was told. Knows nothing of how scores are measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gptailor.core.metrics import aggregate
from gptailor.core.tailoring import Tailoring

__all__ = ["Evaluation", "Job", "Measurement", "Proposal", "Scores", "Trial"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One metric of one task: one number an example, and what they add up to.

    Args:
        metric: A name in `gptailor.core.metrics.METRICS`.
        values: One number an example, in the task's own order: so two candidates compare in pairs.
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
        """The JSON form."""
        value = self.value if math.isfinite(self.value) else None  # JSON knows no infinity
        plain: dict[str, Any] = {"value": value, "values": list(self.values)}
        return plain if self.weights is None else plain | {"weights": list(self.weights)}

    @classmethod
    def from_plain(cls, metric: str, plain: Mapping[str, Any]) -> "Measurement":
        """Read the JSON form."""
        weights = plain.get("weights")
        return cls(metric, tuple(plain["values"]), None if weights is None else tuple(weights))


@dataclass(frozen=True, slots=True)
class Scores:
    """What one tailoring scored: task by task, metric by metric, example by example.

    Args:
        tasks: Task name to metric name to `Measurement`; every metric that the task can tell.
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

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Scores":
        """Read the JSON form."""
        return cls(
            {
                task: {name: Measurement.from_plain(name, item) for name, item in metrics.items()}
                for task, metrics in plain.items()
            }
        )


@dataclass(frozen=True, slots=True)
class Proposal:
    """A tailoring and on how many examples of each task it is to be tried.

    Args:
        tailoring: The candidate.
        n_examples: Examples of each task: the first n of its nested order.
        origin: How the searcher came to it, in a word or two: ``"swap of 3f2a"``.
    """

    tailoring: Tailoring
    n_examples: int
    origin: str = ""

    def to_plain(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "tailoring": self.tailoring.to_plain(),
            "n_examples": self.n_examples,
            "origin": self.origin,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Proposal":
        """Read the JSON form."""
        tailoring = Tailoring.from_plain(plain["tailoring"])
        return cls(tailoring, int(plain["n_examples"]), str(plain.get("origin", "")))


@dataclass(frozen=True, slots=True)
class Trial:
    """The frozen facts of one evaluation: complete with scores, or failed with a reason.

    Args:
        number: Its place in the record, from 0.
        proposal: What was asked.
        scores: What it scored; None if it failed.
        failure: Why it failed; None if it is complete. There is never a score and a failure.
        seconds: Wall-clock time spent on it: its share, where candidates were run together.
        layer_tokens: Tokens times layers that were really run for it, after all sharing.
    """

    number: int
    proposal: Proposal
    scores: Scores | None = None
    failure: str | None = None
    seconds: float = 0.0
    layer_tokens: int = 0

    def __post_init__(self) -> None:
        assert (self.scores is None) != (self.failure is None), "scores or a failure, never both"

    @property
    def complete(self) -> bool:
        """Whether it has scores."""
        return self.scores is not None

    @property
    def tailoring(self) -> Tailoring:
        """The candidate that was tried."""
        return self.proposal.tailoring

    def to_plain(self) -> dict[str, Any]:
        """The JSON form."""
        plain: dict[str, Any] = {"number": self.number, **self.proposal.to_plain()}
        plain |= {"seconds": round(self.seconds, 4), "layer_tokens": self.layer_tokens}
        if self.scores is None:
            return plain | {"failure": self.failure}
        return plain | {"scores": self.scores.to_plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Trial":
        """Read the JSON form."""
        scores = plain.get("scores")
        return cls(
            number=int(plain["number"]),
            proposal=Proposal.from_plain(plain),
            scores=None if scores is None else Scores.from_plain(scores),
            failure=plain.get("failure"),
            seconds=float(plain["seconds"]),
            layer_tokens=int(plain["layer_tokens"]),
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One evaluation wanted.

    Args:
        tailoring: The candidate.
        n_examples: Examples of each task; all there are if a task has fewer.
        split: ``search``, ``selection`` or ``test``.
        known: Scores of the same tailoring on fewer examples of the same split; only the others
            are run.
    """

    tailoring: Tailoring
    n_examples: int
    split: str = "search"
    known: Scores | None = None

    @classmethod
    def of(cls, proposal: Proposal, known: Scores | None) -> "Job":
        """What a proposal asks for on the search split, going on from what is known if it can.

        Asked on no more examples than are known, there is nothing to go on from.
        """
        if known is not None and known.n_examples >= proposal.n_examples:
            known = None
        return cls(proposal.tailoring, proposal.n_examples, "search", known)

    @property
    def n_known(self) -> int:
        """Examples of each task that need not be run."""
        return 0 if self.known is None else self.known.n_examples


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came of a job: scores, or the reason why there are none.

    Args:
        scores: Every metric of every task; None if it failed.
        failure: Why it failed.
        seconds: Its share of the wall-clock time.
        layer_tokens: Its share of the tokens times layers that were run.
    """

    scores: Scores | None
    failure: str | None
    seconds: float
    layer_tokens: int
