"""Limits of parameters and options: `Range` for numbers, `Choice` for named values."""

import math
from dataclasses import dataclass

__all__ = ["Choice", "Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """A number between two limits, both included."""

    low: float
    high: float  # math.inf for no limit
    default: float = math.nan  # left out where a signature has it
    integer: bool = False  # whether only whole numbers are allowed
    tunable: bool = True  # whether a search varies it; a seed, for one, stays at its default
    search_low: float | None = None  # smallest value that a search proposes; `low` when None
    search_high: float | None = None  # largest value that a search proposes; `high` when None

    @property
    def span(self) -> tuple[float, float]:
        """The limits within which a search proposes values."""
        low = self.low if self.search_low is None else self.search_low
        high = self.high if self.search_high is None else self.search_high
        return low, high

    def problem(self, value: object) -> str | None:
        """Say what is wrong with `value`, or None.

        Example:
            >>> Range(0.0, 1.0, default=0.5).problem(3)
            'must be a number from 0 to 1, not 3'
        """
        kind = "whole number" if self.integer else "number"
        limits = f"from {self.low:g} to {self.high:g}"
        if self.high == math.inf:
            limits = f"of {self.low:g} or more"
        message = f"must be a {kind} {limits}, not {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return message
        if self.integer and isinstance(value, float) and not value.is_integer():
            return message
        return None if self.low <= value <= self.high else message


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few named values."""

    options: tuple[str, ...]

    def problem(self, value: object) -> str | None:
        """Say what is wrong with `value`, or None."""
        known = ", ".join(self.options)
        return None if value in self.options else f"must be one of {known}, not {value!r}"
