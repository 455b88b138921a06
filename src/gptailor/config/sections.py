"""The sections of ``tailor.yaml`` about the family, plug-ins, examples, budget and engine."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from gptailor.core.specs import MemberSpec
from gptailor.core.tailoring import BASE, Source
from gptailor.core.validation import Frozen, not_empty, not_many, usable_name
from gptailor.errors import TailoringError

__all__ = ["BudgetConfig", "EngineConfig", "ExamplesConfig", "FamilyConfig", "PluginConfig"]

_TAKEN = {
    BASE: "the base's name",
    "result": "what the finished model is called",
    "auto": "how a task asks for the best member",
}


class FamilyConfig(Frozen):
    """A base and its variants: one architecture, one vocabulary."""

    base: Annotated[MemberSpec, Field(description="The model that the variants were made from.")]
    variants: dict[str, MemberSpec] = Field(
        default_factory=dict, description="Name to fine-tuned variant; may be empty."
    )
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Field(description="Of the weights in memory; auto is the fastest on this machine."),
    ] = "auto"
    tokenizer: Annotated[
        str,
        Field(
            description="The member whose tokenizer, chat template and generation config are used "
            "and exported."
        ),
    ] = BASE

    @field_validator("variants", mode="before")
    @classmethod
    def _named_variants(cls, value: object) -> object:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            return value
        not_many(value)
        for name in value:
            usable_name(name)
            if name in _TAKEN:
                raise ValueError(f"a variant can't be called {name!r}; that is {_TAKEN[name]}")
            try:
                Source(name)
            except TailoringError as error:
                raise ValueError(str(error)) from None
        return dict(value)


class PluginConfig(Frozen):
    """A plug-in by name, with its own options."""

    name: Annotated[str, Field(description="The plug-in's name.")]
    options: dict[str, Any] = Field(default_factory=dict, description="Its keyword options.")


class ExamplesConfig(Frozen):
    """How a task's examples are divided; no two splits share one."""

    search: Annotated[
        float,
        Field(gt=0, le=1, description="Share of the search split, on which candidates are ranked."),
    ] = 0.6
    selection: Annotated[
        float,
        Field(
            gt=0, le=1, description="Share of the selection split, on which the winner is picked."
        ),
    ] = 0.2
    test: Annotated[
        float,
        Field(gt=0, le=1, description="Share of the test split, used by the test scores alone."),
    ] = 0.2


class BudgetConfig(Frozen):
    """When the search stops, whichever comes first."""

    max_trials: Annotated[int, Field(gt=0, le=10**6, description="Evaluations in all.")] = 500
    layer_tokens: Annotated[
        int | None,
        Field(gt=0, le=10**15, description="Tokens times layers run by the search, about."),
    ] = None
    timeout_s: Annotated[float | None, Field(gt=0, description="Wall-clock seconds.")] = None
    n_examples: Annotated[
        tuple[Annotated[int, Field(gt=0)], ...],
        Field(
            description="Examples of each task: fewest and most, or every rung, rising.",
        ),
    ] = (10, 270)
    coefficients: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="Part of the budget that fits merging coefficients by gradients, before "
            "the search; 0 for none.",
        ),
    ] = 0.3
    finalists: Annotated[
        int, Field(gt=0, le=1000, description="Candidates compared on the selection split.")
    ] = 8

    @field_validator("n_examples", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        if isinstance(value, int):
            return (value,)
        return not_empty(tuple(value) if isinstance(value, list) else value)

    @field_validator("n_examples")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"must rise, not {list(value)}")
        return value

    @property
    def rungs(self) -> tuple[int, ...]:
        """Numbers of examples for comparisons, rising; two are ends of a threefold ladder."""
        if len(self.n_examples) != 2:
            return self.n_examples
        low, high = self.n_examples
        rungs = [low]
        while rungs[-1] * 3 < high:
            rungs.append(rungs[-1] * 3)
        return (*rungs, high) if high > rungs[-1] else tuple(rungs)


class EngineConfig(Frozen):
    """How evaluations use the machine."""

    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:1 or mps.")] = "auto"
    threads: Annotated[int | None, Field(gt=0, le=1024, description="CPU threads.")] = None
    cache_bytes: Annotated[int, Field(gt=0, description="Bytes of merged layers kept.")] = 2**32
    member_bytes: Annotated[int | None, Field(gt=0, description="Bytes of members kept.")] = None
    max_length: Annotated[
        int | None, Field(gt=8, description="Longest input in tokens; the model's own if absent.")
    ] = None

    @field_validator("device")
    @classmethod
    def _known_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?|mps", value):
            raise ValueError(f"must be auto, cpu, cuda, cuda:N or mps, not {value!r}")
        return value
