"""Where one member's weights come from, as the config says it."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from gptailor.core.frozen import Frozen, usable_path

__all__ = ["MemberSpec"]


class MemberSpec(Frozen):
    """Where one member's weights come from; in a config, a text alone is the path."""

    path: Annotated[
        str,
        Field(
            min_length=1,
            description="Hub id, folder, LoRA adapter, GGUF file, or package://package/file.gguf.",
        ),
    ]
    strength: Annotated[
        float, Field(ge=-10, le=10, description="Factor on an adapter's weight change.")
    ] = 1.0
    base: Annotated[
        str | None, Field(description="The adapter's own base, if it is not the family's.")
    ] = None
    revision: Annotated[str | None, Field(description="A hub revision.")] = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        if isinstance(value, Mapping) and "adapter" in value:  # {adapter: path, strength: 0.5}
            if "path" in value:
                raise ValueError("has both 'adapter' and 'path'; one is another word for the other")
            return {"path" if key == "adapter" else key: item for key, item in value.items()}
        return {"path": value} if isinstance(value, str) else value

    @field_validator("path", "base")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return usable_path(value)
