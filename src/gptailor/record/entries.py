"""The shapes of a record's lines, as far as the report needs them.

Only what is drawn is required; whatever else a line says is passed over, so that a record of a
later version with more to say can still be read. Knows nothing of files.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, NonNegativeInt, model_validator

from gptailor.core.metrics import METRICS
from gptailor.core.trial import Measurement, Scores

__all__ = [
    "Asked",
    "AskedProposal",
    "Chosen",
    "Costs",
    "EvaluatedModel",
    "Evaluation",
    "FamilyFacts",
    "Finalist",
    "GoalFacts",
    "Header",
    "MeasurementLine",
    "MetricFacts",
    "Reference",
    "Repaired",
    "Reported",
    "Resumed",
    "TaskFacts",
    "TrialEntry",
    "to_scores",
]

_MOST = 1e15  # of one example; sums of more could be too large for a number
Seconds = Annotated[FiniteFloat, Field(ge=0)]


class _Line(BaseModel):
    """Frozen; unknown keys are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class MeasurementLine(_Line):
    """One metric of one task; the value is computed again from the examples."""

    values: Annotated[
        tuple[Annotated[FiniteFloat, Field(ge=-_MOST, le=_MOST)], ...], Field(min_length=1)
    ]
    weights: tuple[Annotated[FiniteFloat, Field(ge=0, le=_MOST)], ...] | None = None

    @model_validator(mode="after")
    def _weighted(self) -> "MeasurementLine":
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.values)} values have {len(self.weights)} weights")
        if self.weights is not None and not any(self.weights):
            raise ValueError("all weights are 0")
        return self


ScoresLine = dict[str, dict[str, MeasurementLine]]


def to_scores(line: ScoresLine) -> Scores:
    """Turn the JSON form into `Scores`, without the metrics that this version does not know."""
    return Scores(
        {
            task: {
                name: Measurement(name, item.values, item.weights)
                for name, item in metrics.items()
                if name in METRICS
            }
            for task, metrics in line.items()
        }
    )


class FamilyFacts(_Line):
    """What the record says of the family."""

    members: Annotated[tuple[str, ...], Field(min_length=1)]
    paths: dict[str, str] = {}
    n_layers: Annotated[int, Field(gt=0)]
    parameters: NonNegativeInt = 0
    layer_parameters: tuple[NonNegativeInt, ...] = ()
    nbytes: NonNegativeInt = 0
    notes: tuple[str, ...] = ()
    digests: dict[str, str] = {}


class GoalFacts(_Line):
    """What is wanted of one task."""

    task: str
    metric: str
    weight: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    proxy: str | None = None


class MetricFacts(_Line):
    """What must be known of a plug-in metric to read its scores."""

    higher_is_better: bool
    meaning: Annotated[str, Field(max_length=1000)] = ""
    transform: Literal["identity", "exp"] = "identity"


class TaskFacts(_Line):
    """How many examples of one task stand in which part."""

    search: NonNegativeInt = 0
    selection: NonNegativeInt = 0
    test: NonNegativeInt = 0
    notes: tuple[str, ...] = ()
    digest: str = ""


class Header(_Line):
    """The first line: what the study is."""

    format: str
    created: str = ""
    config: dict[str, Any] = {}
    versions: dict[str, str | None] = {}
    machine: dict[str, Any] = {}
    seed: int = 0
    family: FamilyFacts
    remove: NonNegativeInt = 0
    goals: Annotated[tuple[GoalFacts, ...], Field(min_length=1)]
    metrics: dict[str, MetricFacts] = {}
    rungs: tuple[int, ...] = ()
    tasks: dict[str, TaskFacts] = {}


class Reference(_Line):
    """A whole member on the search split; without scores the study stopped, and tried it again."""

    member: str
    scores: ScoresLine | None = None
    failure: str | None = None


class AskedProposal(_Line):
    """One proposal of a group, with the number of its trial."""

    number: NonNegativeInt
    tailoring: dict[str, Any]
    n_examples: NonNegativeInt
    origin: str = ""


class Asked(_Line):
    """A group of proposals."""

    proposals: tuple[AskedProposal, ...]


class TrialEntry(_Line):
    """The outcome of one trial: scores or a failure."""

    number: NonNegativeInt
    scores: ScoresLine | None = None
    failure: str | None = None
    seconds: Seconds = 0.0
    layer_tokens: NonNegativeInt = 0
    elapsed: Seconds = 0.0


class Costs(_Line):
    """What a study is to cost, or has cost by now."""

    n_trials: NonNegativeInt
    n_candidates: NonNegativeInt
    layer_tokens: NonNegativeInt
    seconds: Seconds
    peak_bytes: NonNegativeInt


class Resumed(_Line):
    """The study went on after a stop."""

    time: str = ""
    elapsed: Seconds = 0.0


class Repaired(_Line):
    """A torn last line was taken off at a restart."""

    dropped_bytes: NonNegativeInt = 0


class Finalist(_Line):
    """A candidate, or a member for comparison, on the selection split."""

    number: NonNegativeInt | None = None
    member: str | None = None
    scores: ScoresLine | None = None
    failure: str | None = None


class Chosen(_Line):
    """The pick among the finalists."""

    number: NonNegativeInt
    n_tried: NonNegativeInt = 0
    reason: str = ""


class Reported(_Line):
    """A member or the result on the test split, by the engine; as a reference without scores."""

    name: str
    number: NonNegativeInt | None = None
    scores: ScoresLine | None = None
    failure: str | None = None


class EvaluatedModel(_Line):
    """One model of an evaluation."""

    name: str
    path: str = ""
    parameters: NonNegativeInt | None = None
    scores: ScoresLine


class Evaluation(_Line):
    """What ``gptailor evaluate`` wrote."""

    format: str
    split: Literal["test", "selection", "search"] = "test"
    tailoring: str | None = None
    models: tuple[EvaluatedModel, ...]
    versions: dict[str, str | None] = {}
    n_resamples: Annotated[int, Field(gt=0, le=1_000_000)] = 10_000
    backend: str = ""
