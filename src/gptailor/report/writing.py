"""How base, best member and result write: a row for each detector of greedy text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gptailor.core.specs import GENERATION
from gptailor.core.statistics import N_RESAMPLES, RESULT, Estimate, estimate, samples
from gptailor.record.run_record import RunRecord
from gptailor.tasks.greedy_text import GREEDY_TEXT, PROBE

__all__ = ["WritingRow", "writing_rows"]

_ROWS = {
    (GREEDY_TEXT, "repeated_4grams"): "repeated 4-grams",
    (GREEDY_TEXT, "loops"): "loops",
    (GREEDY_TEXT, "empty"): "empty",
    (GREEDY_TEXT, "unterminated"): "unterminated",
    (GENERATION, "flip_rate"): "flip rate",
    (GENERATION, "critical_flip_rate"): "flip rate, critical tokens",
    (GENERATION, "divergence"): "divergence, nats a token",
    (GENERATION, "critical_divergence"): "divergence, critical tokens",
    (PROBE, "exact_match"): f"{PROBE}, right",
}


@dataclass(frozen=True, slots=True)
class WritingRow:
    """One detector."""

    name: str
    estimates: Mapping[str, Estimate]  # model -> its value and 95 % interval over the prompts
    n_examples: int

    @property
    def cells(self) -> list[str]:
        """The estimates as text, one a model."""
        return [f"{e.value:.3g} [{e.low:.3g}, {e.high:.3g}]" for e in self.estimates.values()]


def writing_rows(run: RunRecord) -> list[WritingRow]:
    """The rows of a run with a guard, its models in order; none where nothing was written."""
    written = run.written
    models = [name for name in (*run.header.family.members, RESULT) if name in written]
    rows = []
    for (task, metric), name in _ROWS.items():
        measured = [written[model].tasks[task][metric] for model in models]
        if measured:
            drawn = samples(measured, N_RESAMPLES, np.random.default_rng(0))
            estimates = dict(zip(models, map(estimate, drawn), strict=True))
            rows.append(WritingRow(name, estimates, len(measured[0].values)))
    return rows
