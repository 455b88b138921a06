"""Validation of configs: `Frozen`, the base of every section; checks; sentences about mistakes.

A check raises ValueError with a sentence, to which `sentences` adds the file and the key.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo

from gptailor.errors import unknown

__all__ = [
    "RECORDED",
    "Frozen",
    "bytes_of",
    "is_recorded",
    "not_empty",
    "not_many",
    "sentences",
    "usable_name",
    "usable_path",
]

RECORDED = {"recorded": True}  # the context for validating the config that a record holds

_SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)", re.ASCII)
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_MAX_NAME = 255  # bytes of a file's name, on every common file system
_MAX_MEMBER = 100  # characters of a member's name, which appears in every tailoring and table
_MAX_PROBLEMS = 100
_MAX_ITEMS = 1000  # members or tasks of one config
_MAX_SHOWN = 60  # characters of a value in a message
_MAPPING = "must be a mapping, written as 'key: value' lines or {key: value}"
_LIST = "must be a list, written as [a, b] or '- a' lines"
_MESSAGES = {
    "bool_type": "must be true or false",
    "dict_type": _MAPPING,
    "float_type": "must be a number",
    "int_from_float": "must be a whole number",
    "int_type": "must be a whole number",
    "invalid_key": "a key must be text; put it in quotes",
    "list_type": _LIST,
    "missing": "is missing",
    "model_attributes_type": _MAPPING,
    "model_type": _MAPPING,
    "string_too_short": "must not be empty",
    "string_type": "must be text; a number or a word such as true needs quotes to be text",
    "too_short": "must have at least one item",
    "tuple_type": _LIST,
}
_WITHOUT_VALUE = ("missing", "too_short", "string_too_short", "invalid_key")


class Frozen(BaseModel):
    """Immutable; unknown keys are refused, and numbers are never read from strings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def bytes_of(size: str) -> int:
    """A size in bytes; 0 where it is not one.

    Example:
        >>> bytes_of("2.5GB"), bytes_of("1GiB"), bytes_of("1 G")
        (2500000000, 1073741824, 0)
    """
    match = _SIZE.fullmatch(size)
    return 0 if match is None else int(float(match[1]) * _UNITS[match[2]])


def is_recorded(info: ValidationInfo) -> bool:
    """Whether a config comes from a record, whose plug-ins must not be imported."""
    return info.context == RECORDED


def usable_path(text: str) -> str:
    """Refuse a path that no file system allows; it need not exist."""
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
    """Refuse a member's name that is not text, as YAML reads `1` or `true`, or too long."""
    if not isinstance(name, str):
        raise ValueError(f"the name {name!r} is not text; put it in quotes")
    if len(name) > _MAX_MEMBER:
        raise ValueError(f"the name {name[:30]!r}... is longer than {_MAX_MEMBER} characters")


def sentences(where: str, model: type[BaseModel], error: ValidationError) -> list[str]:
    """Turn an error of validating a `model` into sentences that begin with `where`, 100 at most."""
    found = error.errors(include_url=False)
    problems = [text for one in found[:_MAX_PROBLEMS] for text in _sentences(model, one)]
    if len(found) > _MAX_PROBLEMS:
        problems.append(f"and {len(found) - _MAX_PROBLEMS:,} more problems")
    return [f"{where}: {problem}" for problem in problems]


def not_empty(value: object) -> object:
    """Refuse an empty list; not by `min_length`, which counts only the valid items."""
    if value in ((), []):
        raise ValueError("must have at least one item")
    return value


def not_many(value: object) -> object:
    """Refuse a list or mapping of more than 1,000 items before each is validated."""
    if isinstance(value, list | tuple | Mapping) and len(value) > _MAX_ITEMS:
        raise ValueError(f"has {len(value):,} items; at most {_MAX_ITEMS:,} are allowed")
    return value


def _sentences(model: type[BaseModel], problem: Mapping[str, Any]) -> Iterator[str]:
    location, kind = problem["loc"], problem["type"]
    key = _key(location)
    if kind == "extra_forbidden":
        known = _section(model, location[:-1]).model_fields
        yield f"{key}: {unknown('key', str(location[-1]), known)}"
    elif kind == "value_error":  # raised by a validator of ours: a whole sentence, or several
        for line in str(problem["ctx"]["error"]).splitlines():
            within = not key or line.startswith(f"{key}.")  # names a key of its own
            yield line if within else f"{key}: {line}"
    else:
        message = _MESSAGES.get(kind) or problem["msg"].replace("Input should be", "must be")
        value = "" if kind in _WITHOUT_VALUE else f", not {_shown(problem['input'])}"
        yield f"{key}: {message}{value}"


def _key(location: tuple[Any, ...]) -> str:
    """``tasks[0].metric``, from ``("tasks", 0, "metric")``."""
    steps = [f"[{item}]" if isinstance(item, int) else f".{item}" for item in location]
    return "".join(steps).lstrip(".")


def _section(model: type[BaseModel], location: tuple[Any, ...]) -> type[BaseModel]:
    """The model of the section at a location."""
    for item in location:
        field = model.model_fields.get(str(item))  # a list's index or a variant's name is none
        inner = None if field is None else _model_in(field.annotation)
        model = inner or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
