"""Format numbers, lists and a search's costs for people."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gptailor.core.score_table import Share
from gptailor.core.statistics import Estimate
from gptailor.record.entries import Costs

__all__ = [
    "CostRow",
    "amount",
    "cost_rows",
    "count",
    "decimal",
    "duration",
    "interval",
    "listed",
    "percent",
    "share_lines",
    "shares_text",
    "shortened",
    "spans",
]


def percent(share: float, digits: int = 1) -> str:
    """A share as percent.

    Example:
        >>> percent(0.9213), percent(math.inf)
        ('92.1%', '∞')
    """
    if not math.isfinite(share):
        return "∞" if share > 0 else "−∞"  # noqa: RUF001  # a minus as wide as a digit
    return f"{share:.{digits}%}"


def share_lines(*shares: Share | None) -> list[tuple[str, str]]:
    """Shares of whole members' scores, that above chance after each, and their intervals.

    Example:
        >>> share_lines(Share("base", Estimate(0.4, 0.3, 0.5), Estimate(0.12, 0.05, 0.2)))
        [('40.0% of base', '30.0% to 50.0%'), ('12.0% above chance', '5.0% to 20.0%')]
        >>> share_lines(Share("math", Estimate(0.4, 0.3, 0.5), at_chance=True))
        [('40.0% of math', '30.0% to 50.0%'), ('math is not above chance', '')]
    """
    lines = []
    for share in (share for share in shares if share is not None):
        kept, above = share.kept, share.above_chance
        if kept is None:
            lines.append((f"share of {share.member} not known", ""))
        else:
            lines.append((f"{percent(kept.value)} of {share.member}", interval(kept)))
        if share.at_chance:
            lines.append((f"{share.member} is not above chance", ""))
        elif above is not None:
            lines.append((f"{percent(above.value)} above chance", interval(above)))
    return lines


def shares_text(*shares: Share | None) -> str:
    """The same in one line.

    Example:
        >>> shares_text(Share("base", Estimate(0.4, 0.3, 0.5), at_chance=True))
        '40.0% of base (30.0% to 50.0%), base is not above chance'
    """
    lines = share_lines(*shares)
    return ", ".join(f"{what} ({limits})" if limits else what for what, limits in lines)


def interval(found: Estimate, form: Callable[[float], str] = percent) -> str:
    """The limits of an estimate.

    Example:
        >>> interval(Estimate(0.4, 0.3, math.inf))
        '30.0% to ∞'
    """
    return f"{form(found.low)} to {form(found.high)}"


def decimal(value: float) -> str:
    """A score: three digits after the point, fewer where it is large.

    Example:
        >>> decimal(0.64), decimal(23.456), decimal(4821.3)
        ('0.640', '23.46', '4,821')
    """
    if not math.isfinite(value):
        return "∞"
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}".replace("-", "−")  # noqa: RUF001  # a minus as wide as a digit


def amount(value: float) -> str:
    """A large number with its unit's prefix.

    Example:
        >>> amount(134515008), amount(950), amount(0)
        ('134.5M', '950', '0')
    """
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{prefix}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time span in at most two units.

    Example:
        >>> duration(0.25), duration(75), duration(7260)
        ('0.25 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    whole = round(seconds)
    for unit, below, size in (("d", "h", 86400), ("h", "min", 3600), ("min", "s", 60)):
        if whole >= size:
            rest = whole % size // {"h": 3600, "min": 60, "s": 1}[below]
            return f"{whole // size} {unit}" + (f" {rest} {below}" if rest else "")
    return f"{whole} s"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> count(1, "layer"), count(1200, "layer")
        ('1 layer', '1,200 layers')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def listed(words: Sequence[str]) -> str:
    """Words joined with commas and "and".

    Example:
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    if len(words) < 2:
        return "".join(words)
    return ", ".join(words[:-1]) + " and " + words[-1]


def shortened(name: str, n: int) -> str:
    """A name of at most n characters."""
    return name if len(name) <= n else name[: n - 1] + "…"


def spans(numbers: Sequence[int]) -> str:
    """Rising whole numbers, runs of three or more as ranges.

    Example:
        >>> spans([3, 4, 5, 9, 11, 12])
        '3-5, 9, 11, 12'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    ranges = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(ranges)


class CostRow(NamedTuple):
    """One quantity; `off` is how far the prediction was above (+) or below, as percent."""

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
    quantities: list[tuple[str, float, float, Callable[[float], str]]] = [
        ("trials", forecast.n_trials, spent.n_trials, "{:,}".format),
        ("candidates", forecast.n_candidates, spent.n_candidates, "{:,}".format),
        ("layer-tokens", forecast.layer_tokens, spent.layer_tokens, amount),
        ("time", forecast.seconds, spent.seconds, duration),
        (
            "peak memory",
            forecast.peak_bytes / 2**20,
            spent.peak_bytes / 2**20,
            "{:,.0f} MiB".format,
        ),
    ]
    return tuple(
        CostRow(name, form(before), form(after), f"{before / after - 1:+.0%}" if after else "")
        for name, before, after, form in quantities
    )
