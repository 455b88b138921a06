"""What the entries of a record have in common: a line of JSON, an evaluation, a model's name."""

import json
from typing import Any

from pydantic import NonNegativeInt, model_validator
from pydantic_core import PydanticCustomError

from gptailor.core.trial import Evaluation
from gptailor.record.fields import Part, ScoresField, Seconds

__all__ = ["EvaluatedEntry", "Line", "NamedEntry", "flat", "name_of"]


class Line(Part):
    """One line of a record."""

    def to_plain(self) -> dict[str, Any]:
        """The JSON form."""
        return self.model_dump(exclude_none=True)

    def to_line(self) -> bytes:
        """The line, its end included; a number that is infinite or NaN is refused."""
        compact: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":")}
        return json.dumps(self.to_plain(), allow_nan=False, **compact).encode() + b"\n"


class EvaluatedEntry(Line):
    """The JSON form of an `Evaluation`, flat in its entry."""

    scores: ScoresField | None = None
    failure: str | None = None
    seconds: Seconds = 0.0
    layer_tokens: NonNegativeInt = 0

    @model_validator(mode="after")
    def _scored_or_failed(self) -> "EvaluatedEntry":
        if (self.scores is None) == (self.failure is None):
            raise PydanticCustomError("evaluated", "must have scores or a failure, and not both")
        return self

    @property
    def evaluation(self) -> Evaluation:
        """What came of the evaluation."""
        return Evaluation(self.scores, self.failure, self.seconds, self.layer_tokens)


def flat(evaluation: Evaluation) -> dict[str, Any]:
    """The keys of an evaluation, its seconds rounded."""
    return {
        "scores": evaluation.scores,
        "failure": evaluation.failure,
        "seconds": round(evaluation.seconds, 4),
        "layer_tokens": evaluation.layer_tokens,
    }


class NamedEntry(EvaluatedEntry):
    """A whole member or a candidate evaluated outside the search."""

    member: str | None = None  # None for a candidate
    number: NonNegativeInt | None = None  # of a candidate's trial; None for a member

    @model_validator(mode="after")
    def _named(self) -> "NamedEntry":
        if (self.member is None) == (self.number is None):
            raise PydanticCustomError("named", "must have a member or the number of a trial")
        return self

    @property
    def model(self) -> str | int:
        """The member's name, or the candidate's trial."""
        return self.member if self.member is not None else self.number or 0


def name_of(model: str | int) -> dict[str, Any]:
    """The keys of a member or of a trial's candidate."""
    return {"member": model} if isinstance(model, str) else {"number": model}
