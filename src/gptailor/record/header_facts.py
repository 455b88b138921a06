"""What the header of a record says of the family, the metrics and the tasks."""

from typing import Annotated, Any, Literal

from pydantic import AliasPath, Field, NonNegativeInt, PositiveInt

from gptailor.record.fields import ChanceField, Part

__all__ = ["FamilyFacts", "MetricFacts", "TaskFacts", "compared"]


class FamilyFacts(Part):
    """What a header says of the family."""

    members: Annotated[tuple[str, ...], Field(min_length=1)]  # the base and the variants, in order
    paths: dict[str, str]  # member to where it came from
    n_layers: PositiveInt  # of each member
    parameters: NonNegativeInt  # of the base
    layer_parameters: tuple[NonNegativeInt, ...]  # of the base, by layer
    nbytes: NonNegativeInt  # of all members' weights in memory
    notes: tuple[str, ...]  # on how members were read, a sentence each
    digests: dict[str, str]  # member to the digest of its weights
    model: dict[str, Any] | None = None  # of their config.json: how they compute


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
    # split to what a guess scores; empty where there are no choices, or in an older record
    chance: dict[str, ChanceField] = Field(default_factory=dict)


class _ComparedConfig(Part):
    """What a config must say for a study to go on with it."""

    dtype: Annotated[str, Field(validation_alias=AliasPath("family", "dtype"))]
    engine: dict[str, Any]
    n_examples: Annotated[Any, Field(validation_alias=AliasPath("budget", "n_examples"))]


def compared(config: dict[str, Any]) -> dict[str, Any]:
    """Refuse a config without the keys that resuming compares."""
    _ComparedConfig.model_validate(config)
    return config
