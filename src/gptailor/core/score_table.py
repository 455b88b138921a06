"""The table of scores: what the base and the result score on each task, with intervals."""

from dataclasses import dataclass

__all__ = ["ScoreRow"]

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One line of the table of scores.

    Args:
        task: The task's name.
        metric: The metric's name, with its own unit.
        base: What the base scores.
        result: What the tailored model scores, on the same examples.
        interval: Low and high end of the result's 95 % interval; None if not known.
        retention: The share of the base's score that is kept; None if it has no meaning.
        retention_interval: Low and high end of the retention's 95 % interval; None if not known.
        n_examples: On how many examples; None if not known.
    """

    task: str
    metric: str
    base: float
    result: float
    interval: Interval | None = None
    retention: float | None = None
    retention_interval: Interval | None = None
    n_examples: int | None = None
