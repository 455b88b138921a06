"""The proof of a target in words: base and result side by side."""

import statistics
from collections.abc import Sequence

from gptailor.record.entries import ProofEntry

__all__ = ["proof_rows"]


def proof_rows(proof: ProofEntry) -> list[tuple[str, str, str, str]]:
    """Rows of four cells: what is measured, of the base, of the result, and their ratio.

    Of what was timed the median of the rounds is given, and the lowest and the highest.
    """
    rows = []
    for name, (base, result) in proof.sizes.items():
        rows.append((name, f"{base:,}", f"{result:,}", f"{result / base:.1%}"))
    for name, (slow, quick) in proof.rates.items():
        ratios = [after / before for before, after in zip(slow, quick, strict=True)]
        cells = _spread(slow, ".4g"), _spread(quick, ".4g"), _spread(ratios, ".2f", "x")
        rows.append((f"{name}, tokens a second", *cells))
    return rows


def _spread(values: Sequence[float], form: str, unit: str = "") -> str:
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:{form}}{unit} ({low:{form}} to {high:{form}})"
