"""The entries of a record: one class for every kind of line, written and read through it.

A key without a value is left out of a line. A reader passes over keys and kinds that it does not
know, so that a record of a later version can still be read.
"""

import json
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gptailor.core.objective import Goal
from gptailor.core.trial import Evaluation, Proposal, Trial
from gptailor.record.fields import Part, ScoresField, Seconds, TailoringField

__all__ = [
    "RECORD_FORMAT",
    "AskedEntry",
    "AskedProposal",
    "ChosenEntry",
    "Costs",
    "Entry",
    "FamilyFacts",
    "ForecastEntry",
    "Header",
    "MetricFacts",
    "ModelEntry",
    "ModelKind",
    "RepairedEntry",
    "ResumedEntry",
    "SpentEntry",
    "TaskFacts",
    "TrialEntry",
    "read_entry",
]

RECORD_FORMAT: Literal["gptailor-record/1"] = "gptailor-record/1"


class _Entry(Part):
    """One line of a record."""

    def to_plain(self) -> dict[str, Any]:
        """The JSON form."""
        return self.model_dump(exclude_none=True)

    def to_line(self) -> bytes:
        """The line, its end included; a number that is infinite or NaN is refused."""
        compact: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":")}
        return json.dumps(self.to_plain(), allow_nan=False, **compact).encode() + b"\n"


class _EvaluatedEntry(_Entry):
    """The JSON form of an `Evaluation`, flat in its entry."""

    scores: ScoresField | None = None
    failure: str | None = None
    seconds: Seconds = 0.0
    layer_tokens: NonNegativeInt = 0

    @model_validator(mode="after")
    def _scored_or_failed(self) -> "_EvaluatedEntry":
        if (self.scores is None) == (self.failure is None):
            raise PydanticCustomError("evaluated", "must have scores or a failure, and not both")
        return self

    @property
    def evaluation(self) -> Evaluation:
        """What came of the evaluation."""
        return Evaluation(self.scores, self.failure, self.seconds, self.layer_tokens)


def _flat(evaluation: Evaluation) -> dict[str, Any]:
    """The keys of an evaluation, its seconds rounded."""
    return {
        "scores": evaluation.scores,
        "failure": evaluation.failure,
        "seconds": round(evaluation.seconds, 4),
        "layer_tokens": evaluation.layer_tokens,
    }


class FamilyFacts(Part):
    """What a header says of the family.

    Args:
        members: Names of the base and the variants, in order.
        paths: Member to where it came from.
        n_layers: Layers of each member.
        parameters: Of the base; `layer_parameters` has them by layer.
        nbytes: Of all members' weights in memory.
        notes: What happened to members when they were read, a sentence each.
        digests: Member to the digest of its weights.
        model: The keys of the members' config.json that say how they compute.
    """

    members: Annotated[tuple[str, ...], Field(min_length=1)]
    paths: dict[str, str]
    n_layers: PositiveInt
    parameters: NonNegativeInt
    layer_parameters: tuple[NonNegativeInt, ...]
    nbytes: NonNegativeInt
    notes: tuple[str, ...]
    digests: dict[str, str]
    model: dict[str, Any] | None = None


class MetricFacts(Part):
    """What must be known of a plug-in metric to read its scores."""

    higher_is_better: bool
    meaning: Annotated[str, Field(max_length=1000)] = ""
    transform: Literal["identity", "exp"] = "identity"


class TaskFacts(Part):
    """How many examples each split of a task has, and the digest of them all."""

    search: NonNegativeInt
    selection: NonNegativeInt
    test: NonNegativeInt
    notes: tuple[str, ...]
    digest: str


class _ComparedFamily(Part):
    dtype: str


class _ComparedBudget(Part):
    n_examples: Any


class _ComparedConfig(Part):
    """What a config must say for a study to go on with it."""

    family: _ComparedFamily
    engine: dict[str, Any]
    budget: _ComparedBudget


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    _ComparedConfig.model_validate(config)
    return config


ModelKind = Literal["reference", "finalist", "test"]


class Header(_Entry):
    """The first line: what the study is.

    Args:
        config: The whole config, defaults filled in.
        versions: Library to version; None where it is not installed.
        machine: ``cpu``, ``threads``, ``device``, ``dtype``, ``python``.
        n_kept: Layers of a candidate that may be chosen.
        metrics: Plug-in metrics of the goals, so that their scores can be read without the plug-in.
        merge_methods: Declarations of plug-in merge methods, so that tailorings can be read.
        rungs: Numbers of examples at which candidates are compared, rising.
    """

    kind: Literal["header"] = "header"
    format: Literal["gptailor-record/1"] = RECORD_FORMAT
    created: str
    config: Annotated[dict[str, Any], AfterValidator(_compared)]
    versions: dict[str, str | None]
    machine: dict[str, Any]
    seed: int
    family: FamilyFacts
    n_kept: PositiveInt
    goals: Annotated[tuple[Goal, ...], Field(min_length=1)]
    metrics: dict[str, MetricFacts] = Field(default_factory=dict)
    merge_methods: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rungs: tuple[int, ...]
    tasks: dict[str, TaskFacts]


class Costs(_Entry):
    """The costs of a whole study: members, search, selection and test.

    Args:
        n_trials: Evaluations in the search.
        n_candidates: Distinct tailorings among them.
        layer_tokens: Tokens times layers run, after all sharing.
        seconds: Wall-clock time, without the start of workers.
        peak_bytes: Most memory of a process that evaluates; on a GPU, of its tensors there.
    """

    n_trials: NonNegativeInt
    n_candidates: NonNegativeInt
    layer_tokens: NonNegativeInt
    seconds: Seconds
    peak_bytes: NonNegativeInt


class ForecastEntry(Costs):
    """What a study is expected to cost.

    Args:
        shared: Share of the search's layer-tokens that prefixes and nested rungs save.
        family_bytes: Memory of the members' weights.
        merged_bytes: Most memory of merged layers, in one process.
    """

    kind: Literal["forecast"] = "forecast"
    shared: FiniteFloat
    family_bytes: NonNegativeInt
    merged_bytes: NonNegativeInt


class SpentEntry(Costs):
    """What a study has cost so far, over all starts."""

    kind: Literal["spent"] = "spent"


class ModelEntry(_EvaluatedEntry):
    """A whole member or a candidate evaluated outside the search.

    Args:
        kind: ``reference`` (a member on the search split), ``finalist`` (the base or a candidate on
            the selection split) or ``test`` (a member or the chosen candidate on the test split).
        member: A member's name; None for a candidate.
        number: A candidate's trial; None for a member.
    """

    kind: ModelKind
    member: str | None = None
    number: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _named(self) -> "ModelEntry":
        if (self.member is None) == (self.number is None):
            raise PydanticCustomError("named", "must have a member or the number of a trial")
        return self

    @classmethod
    def of(cls, kind: ModelKind, model: str | int, evaluation: Evaluation) -> "ModelEntry":
        """Make the entry of a member or of a trial's candidate."""
        member, number = (model, None) if isinstance(model, str) else (None, model)
        return cls(kind=kind, member=member, number=number, **_flat(evaluation))

    @property
    def model(self) -> str | int:
        """The member's name, or the candidate's trial."""
        return self.member if self.member is not None else self.number or 0


class AskedProposal(Part):
    """One proposal of a group, with the number of its trial."""

    number: NonNegativeInt
    tailoring: TailoringField
    n_examples: NonNegativeInt
    origin: str = ""

    @classmethod
    def of(cls, number: int, proposal: Proposal) -> "AskedProposal":
        """Number a proposal."""
        return cls(
            number=number,
            tailoring=proposal.tailoring,
            n_examples=proposal.n_examples,
            origin=proposal.origin,
        )

    @property
    def proposal(self) -> Proposal:
        """What was asked."""
        return Proposal(self.tailoring, self.n_examples, self.origin)


class AskedEntry(_Entry):
    """A group of proposals, written before any of them is evaluated."""

    kind: Literal["asked"] = "asked"
    proposals: tuple[AskedProposal, ...]


class TrialEntry(_EvaluatedEntry):
    """The outcome of one trial; `elapsed` is seconds of search over all starts."""

    kind: Literal["trial"] = "trial"
    number: NonNegativeInt
    elapsed: Seconds

    @classmethod
    def of(cls, number: int, evaluation: Evaluation, elapsed: float) -> "TrialEntry":
        """Make the entry of an evaluation."""
        return cls(number=number, elapsed=round(elapsed, 3), **_flat(evaluation))

    def trial(self, proposal: Proposal) -> Trial:
        """The trial of what was asked."""
        return Trial(self.number, proposal, self.evaluation)


class ResumedEntry(_Entry):
    """The study went on after a stop, having searched for `elapsed` seconds before."""

    kind: Literal["resumed"] = "resumed"
    time: str
    elapsed: Seconds


class RepairedEntry(_Entry):
    """A torn last line was taken off at a restart."""

    kind: Literal["repaired"] = "repaired"
    dropped_bytes: NonNegativeInt


class ChosenEntry(_Entry):
    """The pick among the finalists.

    Args:
        number: Of the chosen trial.
        n_tried: Distinct candidates that could have been chosen, in `n_trials` evaluations.
        reason: In words.
    """

    kind: Literal["chosen"] = "chosen"
    number: NonNegativeInt
    n_tried: NonNegativeInt
    n_trials: NonNegativeInt
    reason: str


Entry: TypeAlias = (
    Header
    | ForecastEntry
    | SpentEntry
    | ModelEntry
    | AskedEntry
    | TrialEntry
    | ResumedEntry
    | RepairedEntry
    | ChosenEntry
)
_CLASSES: dict[str, type[Entry]] = {
    kind: entry
    for entry in get_args(Entry)
    for kind in get_args(entry.model_fields["kind"].annotation)
}


def read_entry(plain: dict[str, Any]) -> Entry | None:
    """Read the JSON form of an entry; None for a kind that this version does not know."""
    found = _CLASSES.get(str(plain["kind"]))
    return None if found is None else found.model_validate(plain)
