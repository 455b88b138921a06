"""The proof of a target in words: base and result side by side."""

import statistics
from collections.abc import Sequence

from gptailor.record.entries import ProofEntry

__all__ = ["proof_rows"]


def proof_rows(proof: ProofEntry) -> list[tuple[str, str, str, str]]:
    """Rows of four cells: what is measured, of the base, of the result, and their ratio.

    Of what was timed the median of the rounds is given, and the lowest and the highest; a ratio is
    that of the medians, and its lowest and highest are of single rounds.
    """
    rows = []
    for name, (base, result) in proof.sizes.items():
        rows.append((name, f"{base:,}", f"{result:,}", f"{result / base:.1%}"))
    for name, (slow, quick) in proof.rates.items():
        ratios = [after / before for before, after in zip(slow, quick, strict=True)]
        ratio = statistics.median(quick) / statistics.median(slow)
        times = f"{ratio:.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"
        rows.append((f"{name}, tokens a second", _spread(slow), _spread(quick), times))
    return rows


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g} to {max(values):.4g})"
