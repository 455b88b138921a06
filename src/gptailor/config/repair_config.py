"""The sections ``repair`` and ``calibration`` of ``tailor.yaml``."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gptailor.core.validation import Frozen, not_empty, usable_path

__all__ = ["CalibrationConfig", "RepairConfig"]


class CalibrationConfig(Frozen):
    """The texts that statistics for repairs and baselines are made from."""

    texts: Annotated[
        tuple[str, ...] | None,
        Field(
            description="Files: JSON lines with a key text, or plain text; the search examples if "
            "absent. Those that have selection or test examples are left out."
        ),
    ] = None
    n_tokens: Annotated[int, Field(ge=64, le=10**9, description="Tokens in all.")] = 65536
    baseline_tokens: Annotated[
        int, Field(ge=64, le=10**9, description="The first of them: for statistics of baselines.")
    ] = 16384
    max_length: Annotated[int, Field(ge=3, le=2**20, description="Most tokens of a row.")] = 128
    seed: Annotated[int, Field(ge=0, lt=2**32, description="Of the order of the texts.")] = 0

    @field_validator("texts", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        if isinstance(value, str):
            return (value,)
        return not_empty(tuple(value) if isinstance(value, list) else value)

    @field_validator("texts")
    @classmethod
    def _usable(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if not all(path.strip() for path in value or ()):
            raise ValueError("has an empty path; name a file of texts")
        return None if value is None else tuple(usable_path(path) for path in value)


class RepairConfig(Frozen):
    """How the cuts are repaired."""

    name: Annotated[
        Literal["none", "scale", "refit"],
        Field(description="scale the stream behind each cut, or refit the layer before it."),
    ] = "none"
    later_layers: Annotated[
        bool, Field(description="With refit: also refit every layer behind the first cut.")
    ] = True

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: object) -> object:
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, Mapping | RepairConfig):
            shown = "null" if value is None else f"{value!r:.60}"
            raise ValueError(
                "must be none, scale or refit, or a mapping with name, such as {name: refit}, "
                f"not {shown}"
            )
        if isinstance(value, Mapping) and "later_layers" in value and "name" not in value:
            raise ValueError(
                "later_layers says nothing without a name; name the repair, such as "
                "{name: refit, later_layers: true}"
            )
        return value
