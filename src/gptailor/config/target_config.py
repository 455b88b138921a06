"""The section ``target`` of ``tailor.yaml``: how small or how fast the result is to be."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from gptailor.core.validation import Frozen, bytes_of

__all__ = ["TargetConfig"]

_KINDS = ("parameters", "memory", "speedup", "tokens_per_s")


class TargetConfig(Frozen):
    """What the result is to meet, instead of a number of layers to cut: one of the first four."""

    parameters: Annotated[
        float | None, Field(gt=0, le=1e15, description="Parameters at most, such as 5.0e9.")
    ] = None
    memory: Annotated[
        str | None,
        Field(
            description="Weights and key-value cache at most: 10GB is 10^10 bytes, 10GiB 10 * 2^30."
        ),
    ] = None
    speedup: Annotated[
        float | None,
        Field(gt=1, le=1000, description="Times the base's generated tokens a second."),
    ] = None
    tokens_per_s: Annotated[
        float | None, Field(gt=0, le=1e9, description="Generated tokens a second at least.")
    ] = None
    context: Annotated[
        int, Field(gt=0, le=2**30, description="Tokens of a sequence in the key-value cache.")
    ] = 4096
    batch: Annotated[
        int, Field(gt=0, le=2**20, description="Sequences in the key-value cache.")
    ] = 1
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        Field(description="Of exported weights and cache; the search's own if absent."),
    ] = None

    @field_validator("memory", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        if value is not None and not (isinstance(value, str) and bytes_of(value)):
            raise ValueError(f"must be a size above 0 such as 10GB or 9.5GiB, not {value!r}")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> "TargetConfig":
        given = [key for key, value in self if key in _KINDS and value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise ValueError(f"must have one of {', '.join(_KINDS)}, not {found}")
        return self

    @property
    def kind(self) -> str:
        """The key that is given."""
        return next(key for key, value in self if value is not None)

    def __str__(self) -> str:
        """The target in words."""
        words = {
            "parameters": f"at most {self.parameters or 0:,.0f} parameters",
            "memory": f"at most {self.memory} with {self.batch} x {self.context} tokens",
            "speedup": f"{self.speedup} times as fast as the base",
            "tokens_per_s": f"{self.tokens_per_s} tokens a second",
        }
        return words[self.kind]
