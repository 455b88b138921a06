"""What is measured outside a study, in files beside a run's record.

``evaluation.json`` is what ``gptailor evaluate`` measured, ``compare.json`` what ``gptailor
compare`` did, and ``samples.json`` what ``gptailor sample`` let models write.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, NonNegativeInt, PositiveFloat, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from gptailor.errors import RecordError
from gptailor.files.atomic import write_atomically
from gptailor.files.safe_read import read_plain
from gptailor.record.fields import ChanceField, Part, ScoresField, first_problem

__all__ = [
    "ComparisonFile",
    "EvaluatedModel",
    "EvaluationFile",
    "SampledModel",
    "SamplesFile",
    "read_comparison",
    "read_evaluation",
    "read_samples",
]

_FILE, _COMPARISON, _SAMPLES = "evaluation.json", "compare.json", "samples.json"
_MOST = 2**30  # bytes: a hundred tasks with all their examples


class EvaluatedModel(Part):
    """One model of an evaluation by lm-eval."""

    name: str  # a member's, or `result`
    path: str  # where it came from
    parameters: NonNegativeInt
    scores: ScoresField  # example by example


class EvaluationFile(Part):
    """The whole file that ``gptailor evaluate`` writes."""

    format: Literal["gptailor-evaluation/1"] = "gptailor-evaluation/1"
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


class ComparisonFile(Part):
    """What ``gptailor compare`` measured, to be used again by the next comparison."""

    format: Literal["gptailor-comparison/1"] = "gptailor-comparison/1"
    members: dict[str, str] = Field(default_factory=dict)  # member to the digest of its weights
    # split to task to the digest of its examples; other examples than these make it useless
    tasks: dict[str, dict[str, str]] = Field(default_factory=dict)
    # split to digest of a tailoring to its scores
    scores: dict[str, dict[str, ScoresField]] = Field(default_factory=dict)
    # which layers, to the seconds of each round; all of one comparison were timed in turns
    seconds: dict[str, tuple[PositiveFloat, ...]] = Field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the file into a run's folder: the old one or the new, never half of one."""
        write_atomically(folder / _COMPARISON, json.dumps(self.model_dump(), allow_nan=False))


class SampledModel(Part):
    """What one model wrote, and its scores on the test split and on its greedy texts."""

    name: str  # a member's, `last_n` or `result`
    scores: ScoresField
    texts: tuple[str, ...]  # one a prompt that is shown


class SamplesFile(Part):
    """The whole file that ``gptailor sample`` writes."""

    format: Literal["gptailor-samples/1"] = "gptailor-samples/1"
    tailoring: str  # digest of the result's
    prompts: tuple[str, ...]  # those that are shown; more were measured on
    models: tuple[SampledModel, ...]

    @model_validator(mode="after")
    def _whole(self) -> "SamplesFile":
        if any(len(model.texts) != len(self.prompts) for model in self.models):
            raise PydanticCustomError("texts", "every model must have a text for each prompt")
        return self

    def save(self, folder: Path) -> None:
        """Write the file into a run's folder: the old one or the new, never half of one."""
        write_atomically(folder / _SAMPLES, json.dumps(self.model_dump(), allow_nan=False))


_FileT = TypeVar("_FileT", EvaluationFile, ComparisonFile, SamplesFile)


def read_evaluation(folder: Path) -> EvaluationFile | None:
    """Read the file of a run; None if there is none."""
    return _read(folder / _FILE, EvaluationFile, "evaluate")


def read_samples(folder: Path) -> SamplesFile | None:
    """Read what the models of a run wrote; None if there is no such file."""
    return _read(folder / _SAMPLES, SamplesFile, "sample")


def read_comparison(folder: Path, members: Mapping[str, str]) -> ComparisonFile:
    """Read what was compared before; an empty one if there is none, or it is of other members."""
    found = _read(folder / _COMPARISON, ComparisonFile, "compare")
    if found is None or found.members != dict(members):
        return ComparisonFile(members=dict(members))
    return found


def _read(path: Path, file_type: type[_FileT], verb: str) -> _FileT | None:
    if not path.exists():
        return None
    again = f"remove the file, and run 'gptailor {verb}' again"
    text = read_plain(
        path, most=_MOST, noun=f"file that 'gptailor {verb}' wrote", error_type=RecordError
    )
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"{path}: not usable as JSON; {again}") from None
    found = plain.get("format") if isinstance(plain, dict) else None
    wanted = file_type.model_fields["format"].default
    if found != wanted:
        raise RecordError(f"{path}: format must be {wanted!r}, not {found!r}; {again}")
    try:
        return file_type.model_validate(plain)
    except ValidationError as error:
        raise RecordError(f"{path}: {first_problem(error)}; {again}") from None
