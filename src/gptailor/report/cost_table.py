"""The predicted and the actual costs of a search, as a table of words."""

from collections.abc import Callable
from dataclasses import dataclass

from gptailor.record.entries import Costs
from gptailor.report.words import amount, duration

__all__ = ["CostRow", "cost_rows"]


@dataclass(frozen=True, slots=True)
class CostRow:
    """One quantity.

    Args:
        name: What it is.
        predicted: Before the search.
        actual: Afterwards.
        off: How far the prediction was above (+) or below, as percent of the cost.
    """

    name: str
    predicted: str
    actual: str
    off: str


def cost_rows(forecast: Costs | None, spent: Costs | None) -> tuple[CostRow, ...]:
    """Compare a forecast with the costs; no rows where either is not known.

    Example:
        >>> from gptailor.record.entries import SpentEntry
        >>> costs = SpentEntry(
        ...     n_trials=9, n_candidates=5, layer_tokens=9, seconds=75, peak_bytes=1
        ... )
        >>> twice = costs.model_copy(update={"seconds": 150.0})
        >>> next(row for row in cost_rows(twice, costs) if row.name == "time")
        CostRow(name='time', predicted='2 min 30 s', actual='1 min 15 s', off='+100%')
    """
    if forecast is None or spent is None:
        return ()
    return (
        _row("trials", forecast.n_trials, spent.n_trials, "{:,}".format),
        _row("candidates", forecast.n_candidates, spent.n_candidates, "{:,}".format),
        _row("layer-tokens", forecast.layer_tokens, spent.layer_tokens, amount),
        _row("time", forecast.seconds, spent.seconds, duration),
        _row("peak memory", forecast.peak_bytes, spent.peak_bytes, _mebibytes),
    )


def _row(name: str, predicted: float, actual: float, form: Callable[[float], str]) -> CostRow:
    off = f"{predicted / actual - 1:+.0%}" if actual else ""
    return CostRow(name, form(predicted), form(actual), off)


def _mebibytes(n_bytes: float) -> str:
    return f"{n_bytes / 2**20:,.0f} MiB"
