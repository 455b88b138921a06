"""The entries of a record: one class for every kind of line, written and read through it.

A key without a value is left out of a line. A reader passes over keys and kinds that it does not
know, so that a record of a later version can still be read.
"""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gptailor.core.changes import Change, ChangeKind
from gptailor.core.objective import Goal
from gptailor.core.trial import Evaluation, Proposal, Trial
from gptailor.record.fields import Part, Seconds, TailoringField
from gptailor.record.header_facts import FamilyFacts, MetricFacts, TaskFacts, compared
from gptailor.record.lines import EvaluatedEntry, Line, NamedEntry, flat, name_of

__all__ = [
    "RECORD_FORMAT",
    "AskedEntry",
    "AskedProposal",
    "BaselineEntry",
    "ChosenEntry",
    "Costs",
    "Entry",
    "EntryT",
    "ExplainedEntry",
    "FamilyFacts",
    "ForecastEntry",
    "Header",
    "MetricFacts",
    "ModelEntry",
    "ModelKind",
    "OwnTextsEntry",
    "ProofEntry",
    "RefittedEntry",
    "ResumedEntry",
    "SlopeEntry",
    "SpentEntry",
    "TaskFacts",
    "TrialEntry",
    "TruncatedEntry",
    "WrittenEntry",
    "of_type",
    "read_entry",
]

RECORD_FORMAT: Literal["gptailor-record/1"] = "gptailor-record/1"


_Ids = tuple[NonNegativeInt, ...]
ModelKind = Literal["reference", "finalist", "refitted", "test"]


class Header(Line):
    """The first line: what the study is."""

    kind: Literal["header"] = "header"
    format: Literal["gptailor-record/1"] = RECORD_FORMAT
    created: str
    config: Annotated[dict[str, Any], AfterValidator(compared)]  # defaults filled in
    versions: dict[str, str | None]  # library to version; None where it is not installed
    machine: dict[str, Any]  # `cpu`, `threads`, `device`, `dtype`, `python`
    seed: int
    family: FamilyFacts
    n_kept: PositiveInt  # layers of a candidate that may be chosen
    goals: Annotated[tuple[Goal, ...], Field(min_length=1)]
    metrics: dict[str, MetricFacts] = Field(default_factory=dict)  # plug-ins of the goals
    merge_methods: dict[str, dict[str, Any]] = Field(default_factory=dict)  # plug-ins' declarations
    rungs: tuple[int, ...]  # numbers of examples at which candidates are compared, rising
    tasks: dict[str, TaskFacts]
    calibration: str | None = None  # digest of the rows of named texts, where they are used
    target: str | None = None  # how many layers it came to and why, a sentence; None without one

    def chances(self, split: str) -> dict[str, tuple[float, ...]]:
        """Task to what a guess scores on the examples of a split; see `TaskFacts.chance`."""
        return {task: facts.chance.get(split, ()) for task, facts in self.tasks.items()}

    def n_examples(self, split: str) -> int:
        """Of a split, of the task with the most examples in it."""
        return max(int(getattr(facts, split)) for facts in self.tasks.values())


class Costs(Line):
    """The costs of a whole study: members, search, selection and test."""

    n_trials: NonNegativeInt  # evaluations in the search
    n_candidates: NonNegativeInt  # distinct tailorings among them
    layer_tokens: NonNegativeInt  # tokens times layers run, after all sharing
    seconds: Seconds  # wall-clock time, without the start of workers
    peak_bytes: NonNegativeInt  # most of a process that evaluates; on a GPU, of its tensors there


class ForecastEntry(Costs):
    """What a study is expected to cost."""

    kind: Literal["forecast"] = "forecast"
    shared: FiniteFloat  # share of the search's layer-tokens that prefixes and rungs save
    family_bytes: NonNegativeInt  # memory of the members' weights
    merged_bytes: NonNegativeInt  # most memory of merged layers, in one process


class SpentEntry(Costs):
    """What a study has cost so far, over all starts."""

    kind: Literal["spent"] = "spent"


class ModelEntry(NamedEntry):
    """A whole member or a candidate on examples of the tasks.

    ``reference`` is a member on the search split, ``finalist`` the base or a candidate on the
    selection split, ``refitted`` a candidate there with the refits of a `RefittedEntry`,
    ``test`` a member or the chosen candidate on the test split.
    """

    kind: ModelKind
    tailoring: str | None = None  # digest of what was scored, its repair included

    @classmethod
    def of(
        cls, kind: ModelKind, model: str | int, tailoring: str, evaluation: Evaluation
    ) -> "ModelEntry":
        """Make the entry of a member or of a trial's candidate."""
        return cls(kind=kind, tailoring=tailoring, **name_of(model), **flat(evaluation))


class OwnTextsEntry(Line):
    """What a whole member wrote, made once; candidates are compared with it."""

    kind: Literal["own_texts"] = "own_texts"
    member: str
    # of each text the token ids of its prompt and of the answer, and indices of critical tokens
    texts: tuple[tuple[_Ids, _Ids, _Ids], ...]


class WrittenEntry(NamedEntry):
    """A whole member or a candidate on the tasks of greedy text, which a guard looks at."""

    kind: Literal["written"] = "written"
    tailoring: str  # digest of the tailoring that wrote, its repair included

    @classmethod
    def of(cls, model: str | int, tailoring: str, evaluation: Evaluation) -> "WrittenEntry":
        """Make the entry of a member or of a trial's candidate."""
        return cls(tailoring=tailoring, **name_of(model), **flat(evaluation))


class SlopeEntry(Line):
    """Slopes of the loss by the merging coefficients of the uncut model, at one step of their fit.

    Written before the step is taken. The loss is the weighted mean over tasks of the logarithm of
    the nats of gold answers and texts. Where they could not be measured there is no loss, and all
    slopes are 0.
    """

    kind: Literal["slopes"] = "slopes"
    step: NonNegativeInt
    n_steps: PositiveInt = 1  # in all
    loss: FiniteFloat | None = None
    failure: str | None = None  # why there is no loss
    slopes: tuple[tuple[FiniteFloat, ...], ...]  # (n_layers, n_variants)
    seconds: Seconds = 0.0
    layer_tokens: NonNegativeInt = 0  # tokens times layers run; backwards counts twice


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


class AskedEntry(Line):
    """A group of proposals, written before any of them is evaluated."""

    kind: Literal["asked"] = "asked"
    proposals: tuple[AskedProposal, ...]


class BaselineEntry(Line):
    """The outcome of a baseline, written before its tailoring is asked as a trial.

    Baselines with equal tailorings share one trial.
    """

    kind: Literal["baseline"] = "baseline"
    name: str
    member: str  # whose layers it cuts
    tailoring: TailoringField | None = None
    failure: str | None = None  # why it has no tailoring
    seconds: Seconds  # to compute it
    layer_tokens: NonNegativeInt  # run for it and its repair, beyond what earlier ones measured
    alone_layer_tokens: NonNegativeInt  # that it would have run without earlier ones
    idle_parameters: NonNegativeInt = 0  # of heads and neurons taken out, which are zeros

    @model_validator(mode="after")
    def _made_or_failed(self) -> "BaselineEntry":
        if (self.tailoring is None) == (self.failure is None):
            raise PydanticCustomError("made", "must have a tailoring or a failure, and not both")
        return self


class TrialEntry(EvaluatedEntry):
    """The outcome of one trial; `elapsed` is seconds of search over all starts."""

    kind: Literal["trial"] = "trial"
    number: NonNegativeInt
    elapsed: Seconds

    @classmethod
    def of(cls, number: int, evaluation: Evaluation, elapsed: float) -> "TrialEntry":
        """Make the entry of an evaluation."""
        return cls(number=number, elapsed=round(elapsed, 3), **flat(evaluation))

    def trial(self, proposal: Proposal) -> Trial:
        """The trial of what was asked."""
        return Trial(self.number, proposal, self.evaluation)


class ResumedEntry(Line):
    """The study went on after a stop, having searched for `elapsed` seconds before."""

    kind: Literal["resumed"] = "resumed"
    time: str
    elapsed: Seconds


class TruncatedEntry(Line):
    """A torn last line was taken off at a restart."""

    kind: Literal["truncated"] = "truncated"
    dropped_bytes: NonNegativeInt


class RefittedEntry(Line):
    """The repairs of a finalist, written before they are scored; they name fitted tensors."""

    kind: Literal["refits"] = "refits"
    number: NonNegativeInt
    searched: TailoringField  # as it was scored in the search
    refitted: TailoringField | None = None  # cut after cut; None where only scaled
    calibration: str  # digest of the rows that it was fitted on
    seconds: Seconds = 0.0
    layer_tokens: NonNegativeInt = 0  # tokens times layers run for it


class ChosenEntry(Line):
    """The pick among the finalists."""

    kind: Literal["chosen"] = "chosen"
    number: NonNegativeInt
    n_tried: NonNegativeInt  # distinct candidates that could have been chosen
    n_trials: NonNegativeInt  # evaluations in all
    reason: str
    guard: str | None = None  # whose greedy text is dead, and what passing it over cost
    guard_cost: FiniteFloat | None = None  # loss of the pick less the lowest; None if it is that
    tailoring: TailoringField | None = None  # with its fitted tensors; None where it has none


class ExplainedEntry(EvaluatedEntry):
    """A tailoring with one layer changed, evaluated on the test split; see `Change`."""

    kind: Literal["explained"] = "explained"
    result: str  # digest of the tailoring of which one layer was changed
    change: ChangeKind
    position: NonNegativeInt
    member: str | None = None
    tailoring: TailoringField

    @classmethod
    def of(cls, result: str, change: Change, evaluation: Evaluation) -> "ExplainedEntry":
        """Make the entry of an evaluated change."""
        return cls(
            result=result,
            change=change.kind,
            position=change.position,
            member=change.member,
            tailoring=change.tailoring,
            **flat(evaluation),
        )


class ProofEntry(Line):
    """Base and result measured side by side, where a target was given; each pair in this order."""

    kind: Literal["proof"] = "proof"
    tailoring: str  # digest of the result's
    device: str
    dtype: str  # of the models that were timed
    sizes: dict[str, tuple[PositiveInt, PositiveInt]]  # what to its number
    # what to tokens a second, a round each; both were timed in turns
    rates: dict[str, tuple[tuple[PositiveFloat, ...], tuple[PositiveFloat, ...]]]


Entry: TypeAlias = (
    Header
    | ForecastEntry
    | SpentEntry
    | ModelEntry
    | SlopeEntry
    | AskedEntry
    | BaselineEntry
    | TrialEntry
    | ResumedEntry
    | TruncatedEntry
    | RefittedEntry
    | ChosenEntry
    | ExplainedEntry
    | ProofEntry
    | OwnTextsEntry
    | WrittenEntry
)
EntryT = TypeVar("EntryT", bound=Entry)

_CLASSES: dict[str, type[Entry]] = {
    kind: entry
    for entry in get_args(Entry)
    for kind in get_args(entry.model_fields["kind"].annotation)
}


def read_entry(plain: dict[str, Any]) -> Entry | None:
    """Read the JSON form of an entry; None for a kind that this version does not know."""
    found = _CLASSES.get(str(plain["kind"]))
    return None if found is None else found.model_validate(plain)


def of_type(
    entries: Iterable[Entry], entry_type: type[EntryT], kind: str | None = None
) -> Iterator[EntryT]:
    """The entries of one type, or of one kind of it, in order."""
    found = (entry for entry in entries if isinstance(entry, entry_type))
    return (entry for entry in found if kind in (None, entry.kind))
