"""``evaluation.json``: what ``gptailor evaluate`` measured, beside a run's record."""

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, ValidationError

from gptailor.errors import RecordError
from gptailor.files.atomic import write_atomically
from gptailor.files.safe_read import read_plain
from gptailor.record.fields import ChanceField, Part, ScoresField, first_problem

__all__ = ["EvaluatedModel", "EvaluationFile", "read_evaluation"]

_FILE = "evaluation.json"
_FORMAT: Literal["gptailor-evaluation/1"] = "gptailor-evaluation/1"
_MOST = 2**30  # bytes: a hundred tasks with all their examples


class EvaluatedModel(Part):
    """One model of an evaluation by lm-eval."""

    name: str  # a member's, or `result`
    path: str  # where it came from
    parameters: NonNegativeInt
    scores: ScoresField  # example by example


class EvaluationFile(Part):
    """The whole file."""

    format: Literal["gptailor-evaluation/1"] = _FORMAT
    split: Literal["test", "selection", "search"] = "test"
    tailoring: str | None = None  # digest of the result's
    backend: str  # what ran the models
    n_resamples: Annotated[int, Field(gt=0, le=1_000_000)]  # of the bootstrap
    versions: dict[str, str | None]  # library to version
    models: tuple[EvaluatedModel, ...]
    chances: dict[str, ChanceField] = Field(default_factory=dict)  # task to what a guess scores

    def save(self, folder: Path) -> None:
        """Write the file into a run's folder: the old one or the new, never half of one."""
        write_atomically(folder / _FILE, json.dumps(self.model_dump(), allow_nan=False))


def read_evaluation(folder: Path) -> EvaluationFile | None:
    """Read the file of a run; None if there is none."""
    path = folder / _FILE
    if not path.exists():
        return None
    again = "run 'gptailor evaluate' again, or remove the file"
    text = read_plain(
        path, most=_MOST, noun="file that 'gptailor evaluate' wrote", error_type=RecordError
    )
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"{path}: not usable as JSON; {again}") from None
    found = plain.get("format") if isinstance(plain, dict) else None
    if found != _FORMAT:
        raise RecordError(f"{path}: format must be {_FORMAT!r}, not {found!r}; {again}")
    try:
        return EvaluationFile.model_validate(plain)
    except ValidationError as error:
        raise RecordError(f"{path}: {first_problem(error)}; {again}") from None
