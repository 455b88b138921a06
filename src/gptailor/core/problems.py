"""Sentences about mistakes in a file, from what pydantic finds: which key, and what it must be."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gptailor.errors import unknown

__all__ = ["not_empty", "not_many", "sentences"]

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


def sentences(where: str, model: type[BaseModel], error: ValidationError) -> list[str]:
    """Turn a validation error into sentences: the first hundred, and how many more there are.

    Args:
        where: What each sentence begins with, such as the file.
        model: What was validated.
        error: What pydantic found.
    """
    found = error.errors(include_url=False)
    problems = [text for one in found[:_MAX_PROBLEMS] for text in _sentences(model, one)]
    if len(found) > _MAX_PROBLEMS:
        problems.append(f"and {len(found) - _MAX_PROBLEMS:,} more problems")
    return [f"{where}: {problem}" for problem in problems]


def not_empty(value: object) -> object:
    """Refuse an empty list; not by `min_length`, which counts only the valid items.

    Raises:
        ValueError: A sentence; pydantic adds the key.
    """
    if value in ((), []):
        raise ValueError("must have at least one item")
    return value


def not_many(value: object) -> object:
    """Refuse a list or mapping of more than 1,000 items before each is validated.

    Raises:
        ValueError: A sentence; pydantic adds the key.
    """
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
