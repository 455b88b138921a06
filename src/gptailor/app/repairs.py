"""The repair that a config asks for: of every candidate in a search, and of finalists."""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from gptailor.config.repair_config import RepairConfig
from gptailor.core.repair import Repairer, refit_cuts, scale_cuts
from gptailor.core.tailoring import Tailoring
from gptailor.engine import Engine
from gptailor.engine.streams import Streams
from gptailor.forecast.dry_run import FitTokens
from gptailor.record.entries import RefittedEntry
from gptailor.repair.refit import Refitter
from gptailor.repair.scale import refuse_inexact_scale, stream_norms
from gptailor.tasks.calibration import Calibration

__all__ = ["Repairs"]

_SEARCH_RIDGES = (1.0,)  # what several would come to on most layers of SmolLM2
_SEARCH_TOKENS = 8192  # that layers are refitted from in a search: a fit costs what a trial does


@dataclass(frozen=True, eq=False)
class Repairs:
    """Repairs candidates of one family.

    Args:
        config: What is wanted.
        engine: Has the family.
        open_calibration: Reads the calibration rows.
    """

    config: RepairConfig
    engine: Engine
    open_calibration: Callable[[], Calibration]

    @functools.cached_property
    def calibration(self) -> Calibration:
        """All calibration rows; what is fitted from now on is fitted on them."""
        found, family = self.open_calibration(), self.engine.family
        family.fitted.fitted_on = lambda: family.fitted_on(found.digest)  # reads all weights
        return found

    @functools.cached_property
    def repairer(self) -> Repairer | None:
        """Repairs a candidate; with refits, layers are fitted when they are first evaluated.

        Raises:
            ConfigError: The architecture can't be repaired in this way, or the texts can't be read
                or are too few.
        """
        family = self.engine.family
        if self.config.name == "none":
            return None
        if self.config.name == "scale":
            streams = Streams(self.engine, self.calibration.first(_SEARCH_TOKENS).rows)
            refuse_inexact_scale(streams)
            norms = stream_norms(streams, family.members)
            return functools.partial(scale_cuts, n_layers=family.n_layers, norms=norms)
        rows = self.calibration.first(_SEARCH_TOKENS).rows
        refitter = Refitter(self.engine, rows, ridges=_SEARCH_RIDGES)
        _ = self._exact  # too few rows are refused now, not after the search
        family.fitted.fit = refitter.from_uncut
        return functools.partial(refit_cuts, n_layers=family.n_layers)

    def entry_of(
        self, number: int, tailoring: Tailoring, fitted: Tailoring | None, *, folder: Path
    ) -> RefittedEntry:
        """Repair a finalist as in the search and, with refits, cut after cut; save the tensors.

        `fitted` is the whole model with fitted coefficients, whose layers are put back.
        """
        started, before = time.perf_counter(), self.engine.stream_layer_tokens
        searched = self.fitted_as_in_search(tailoring)
        refitted = self.repaired(tailoring, fitted) if self.config.name == "refit" else None
        for model in (searched, refitted):
            if model is not None:
                self.engine.family.fitted.save(model, folder)
        return RefittedEntry(
            number=number,
            searched=searched,
            refitted=refitted,
            calibration=self.calibration.digest,
            seconds=round(time.perf_counter() - started, 3),
            layer_tokens=self.engine.stream_layer_tokens - before,
        )

    @property
    def fit_tokens(self) -> FitTokens | None:
        """From how many tokens layers are fitted; None where none is."""
        if self.config.name != "refit":
            return None
        return FitTokens(self.calibration.first(_SEARCH_TOKENS).n_tokens, self.calibration.n_tokens)

    def repaired(self, tailoring: Tailoring, fitted: Tailoring | None = None) -> Tailoring:
        """Repair a tailoring that no search chooses among; refits are made cut after cut.

        They are towards the model without cuts, see `whole_of`.
        """
        if self.repairer is None:
            return tailoring
        if self.config.name == "scale":
            return self.repairer(tailoring)
        later_layers = self.config.later_layers
        return self._exact.cut_after_cut(tailoring, later_layers=later_layers, fitted=fitted)

    @functools.cached_property
    def _exact(self) -> Refitter:
        """Refits cut after cut, from all calibration rows."""
        refitter = Refitter(self.engine, self.calibration.rows)
        refitter.check()
        return refitter

    def fitted_as_in_search(self, tailoring: Tailoring) -> Tailoring:
        """Fit, as in the search, the layers that are to be refitted and name no tensors yet."""
        store = self.engine.family.fitted
        fit = store.fit
        layers = [
            spec.with_repair(refit_to=spec.refit_to, fitted=store.add(fit(spec)))
            if fit is not None and spec.refit_to is not None and spec.fitted is None
            else spec
            for spec in tailoring.layers
        ]
        return replace(tailoring, layers=tuple(layers))
