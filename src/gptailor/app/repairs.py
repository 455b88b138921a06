"""The repair that a config asks for: of every candidate in a search, and of finalists."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gptailor.config.schema import RepairConfig
from gptailor.core.repair import Repairer, refit_cuts, scale_cuts
from gptailor.core.tailoring import Tailoring
from gptailor.engine import Engine
from gptailor.engine.streams import Streams
from gptailor.record.entries import RefittedEntry
from gptailor.repair.refit import Refitter
from gptailor.repair.scale import refuse_inexact_scale, stream_norms
from gptailor.tasks.calibration import Calibration

__all__ = ["Repairs"]

_SEARCH_RIDGES = (0.1,)
_SEARCH_TOKENS = 8192  # that layers are refitted from in a search: a fit costs what a trial does


@dataclass(frozen=True, eq=False)
class Repairs:
    """Repairs candidates of one family.

    Args:
        config: What is wanted.
        engine: Has the family.
        open_calibration: Reads the calibration rows.

    Raises:
        ConfigError: The architecture can't be repaired in this way, or the texts can't be read.
    """

    config: RepairConfig
    engine: Engine
    open_calibration: Callable[[], Calibration]

    @functools.cached_property
    def calibration(self) -> Calibration:
        """All calibration rows."""
        return self.open_calibration()

    @functools.cached_property
    def repairer(self) -> Repairer | None:
        """Repairs a candidate; with refits, layers are fitted when they are first evaluated."""
        family = self.engine.family
        if self.config.name == "none":
            return None
        rows = self.calibration.first(_SEARCH_TOKENS).rows
        if self.config.name == "scale":
            streams = Streams(self.engine, rows)
            refuse_inexact_scale(streams)
            norms = stream_norms(streams, family.members)
            return functools.partial(scale_cuts, n_layers=family.n_layers, norms=norms)
        refitter = Refitter(self.engine, rows, ridges=_SEARCH_RIDGES)
        refitter.check()
        family.fitted.fit = refitter.from_uncut
        return functools.partial(refit_cuts, n_layers=family.n_layers)

    def refit(self, number: int, tailoring: Tailoring, *, folder: Path) -> RefittedEntry:
        """Repair a finalist in each possible way, and save its fitted tensors in `folder`."""
        family = self.engine.family
        searched, refitted = self.named(tailoring), None
        if self.config.name == "refit":
            later = self.config.later_layers
            refitted = self._exact.cut_after_cut(tailoring, later_layers=later)
            family.fitted.save(refitted, folder)
        family.fitted.save(searched, folder)
        return RefittedEntry(
            number=number,
            searched=searched,
            refitted=refitted,
            calibration=self.calibration.digest,
        )

    @functools.cached_property
    def _exact(self) -> Refitter:
        return Refitter(self.engine, self.calibration.rows)

    def named(self, tailoring: Tailoring) -> Tailoring:
        """The same tailoring, its layers naming the tensors they were fitted to."""
        fitted = self.engine.family.fitted
        layers = [
            spec.with_repair(refit_to=spec.refit_to, fitted=fitted.add(fitted.fit(spec)))
            if spec.refit_to is not None and spec.fitted is None and fitted.fit is not None
            else spec
            for spec in tailoring.layers
        ]
        return Tailoring(tuple(layers), tailoring.embedding, tailoring.norm, tailoring.head)
