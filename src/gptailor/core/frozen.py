"""`Frozen`, the base of every section of the config, and checks of names and paths in it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationInfo

__all__ = ["RECORDED", "Frozen", "is_recorded", "usable_name", "usable_path"]

RECORDED = {"recorded": True}  # the context for validating the config that a record holds

_MAX_NAME = 255  # bytes of a file's name, on every common file system
_MAX_MEMBER = 100  # characters of a member's name, which appears in every tailoring and table


class Frozen(BaseModel):
    """Immutable; unknown keys are refused, and numbers are never read from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def is_recorded(info: ValidationInfo) -> bool:
    """Whether a config comes from a record, whose plug-ins must not be imported."""
    return info.context == RECORDED


def usable_path(text: str | None) -> str | None:
    """Refuse a path that no file system allows; it need not exist.

    Raises:
        ValueError: A sentence; pydantic adds the key.
    """
    if text is None:
        return None
    if not text.isprintable():
        raise ValueError(f"{text[:60]!r} has characters that no path has")
    if max(len(name.encode()) for name in text.split("/")) > _MAX_NAME:
        raise ValueError(f"{text[:60]!r}... is too long; a name has {_MAX_NAME} bytes at most")
    try:
        Path(text).expanduser()
    except RuntimeError:
        raise ValueError(f"{text!r}: there is no such user") from None
    return text


def usable_name(name: object) -> None:
    """Refuse a member's name that is not text, as YAML reads `1` or `yes`, or too long.

    Raises:
        ValueError: A sentence; pydantic adds the key.
    """
    if not isinstance(name, str):
        raise ValueError(f"the name {name!r} is not text; put it in quotes")
    if len(name) > _MAX_MEMBER:
        raise ValueError(f"the name {name[:30]!r}... is longer than {_MAX_MEMBER} characters")
