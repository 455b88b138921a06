"""What the entries of a record are made of: scores and tailorings in their JSON forms."""

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Measurement, Scores
from gptailor.errors import UserError

__all__ = ["ChanceField", "Part", "ScoresField", "Seconds", "TailoringField", "first_problem"]

_LARGEST = 1e15  # of one example; sums of more could overflow
Seconds = Annotated[FiniteFloat, Field(ge=0)]
# how probable a guess is right: one number an example, or one for all
ChanceField = tuple[Annotated[FiniteFloat, Field(ge=0, le=1)], ...]


class Part(BaseModel):
    """Frozen data of a record; unknown keys are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Measured(Part):
    """The JSON form of a `Measurement`; its value is computed again from the examples."""

    values: Annotated[
        tuple[Annotated[FiniteFloat, Field(ge=-_LARGEST, le=_LARGEST)], ...], Field(min_length=1)
    ]
    weights: tuple[Annotated[FiniteFloat, Field(ge=0, le=_LARGEST)], ...] | None = None

    @model_validator(mode="after")
    def _weighted(self) -> "_Measured":
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.values)} values have {len(self.weights)} weights")
        if self.weights is not None and not any(self.weights):
            raise ValueError("all weights are 0")
        return self


_SCORES = TypeAdapter(dict[str, dict[str, _Measured]])


def _scores(plain: object) -> Scores:
    """Scores from their JSON form, or as they are."""
    if isinstance(plain, Scores):
        return plain
    return Scores(
        {
            task: {name: Measurement(name, m.values, m.weights) for name, m in metrics.items()}
            for task, metrics in _SCORES.validate_python(plain).items()
        }
    )


def _tailoring(plain: object) -> Tailoring:
    """A tailoring from its JSON form, or as it is."""
    if isinstance(plain, Tailoring):
        return plain
    try:
        return Tailoring.from_plain(plain)
    except UserError as error:
        problems = "; ".join(problem.removeprefix("tailoring: ") for problem in error.problems)
        raise PydanticCustomError("tailoring", "{problems}", {"problems": problems}) from None


ScoresField = Annotated[Scores, PlainValidator(_scores), PlainSerializer(Scores.to_plain)]
TailoringField = Annotated[
    Tailoring, PlainValidator(_tailoring), PlainSerializer(Tailoring.to_plain)
]


def first_problem(error: ValidationError) -> str:
    """The first problem of an entry, with its key."""
    first = error.errors(include_url=False, include_input=False)[0]
    key, message = ".".join(map(str, first["loc"])), first["msg"]
    return f"{key}: {message[:1].lower()}{message[1:]}" if key else message
