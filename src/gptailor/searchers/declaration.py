"""Checks of the options that a user gives to a searcher.

Knows nothing of what they do; each searcher says their limits.
"""

from collections.abc import Mapping

from gptailor.core.params import Choice, Range
from gptailor.errors import ConfigError

__all__ = ["check_options", "rung_limits"]


def check_options(
    name: str, values: Mapping[str, object], limits: Mapping[str, Range | Choice]
) -> None:
    """Hold every option against its limits.

    Args:
        name: The searcher's name in a config.
        values: Option to value.
        limits: Option to what it may be.

    Raises:
        ConfigError: Every error, a sentence each.
    """
    problems = [
        f"search.options.{option}: {name}'s {option} {error}"
        for option, value in values.items()
        if (error := _problem(limits[option], value)) is not None
    ]
    if problems:
        raise ConfigError(problems)


def rung_limits(rungs: tuple[int, ...]) -> Range:
    """What an option may be that names one of the rungs; -1 is the last."""
    return Range(-len(rungs), len(rungs) - 1, default=-1, integer=True)


def _problem(limits: Range | Choice, value: object) -> str | None:
    if isinstance(limits, Range) and limits.integer and isinstance(value, float):
        return f"must be a whole number, not {value!r}; write it without a point"
    return limits.problem(value)
