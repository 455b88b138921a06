"""Tunable values: what a parameter may be, and what it is when nobody says.

Knows nothing of who tunes them. A merge method declares its parameters as `Range`; a searcher
draws from it, a config and a tailoring are checked against it.
"""

from dataclasses import dataclass

__all__ = ["Choice", "Range"]


@dataclass(frozen=True, slots=True)
class Range:
    """A number between two limits, both included.

    Args:
        low: Smallest value.
        high: Largest value.
        default: The value when none is given.
        integer: Whether only whole numbers are allowed.
        tunable: Whether a search varies it; a seed, for one, stays at its default.
        search_low: Smallest value that a search proposes; `low` when None.
        search_high: Largest value that a search proposes; `high` when None.
    """

    low: float
    high: float
    default: float
    integer: bool = False
    tunable: bool = True
    search_low: float | None = None
    search_high: float | None = None

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
        told = f"must be a {kind} from {self.low:g} to {self.high:g}, not {value!r}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return told
        if self.integer and isinstance(value, float) and not value.is_integer():
            return told
        return None if self.low <= value <= self.high else told


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few named values.

    Args:
        options: The values allowed.
        default: The value when none is given.
    """

    options: tuple[str, ...]
    default: str
    tunable: bool = True

    def problem(self, value: object) -> str | None:
        """Say what is wrong with `value`, or None."""
        if value in self.options:
            return None
        return f"must be one of {', '.join(self.options)}, not {value!r}"
