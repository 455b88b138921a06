"""Propose the tailorings of baselines, one after another, as the searcher of a study."""

import dataclasses
import time
from collections.abc import Callable
from functools import cached_property

from gptailor.app.assemble import Assembly, evaluates_apart
from gptailor.baselines import BaselineContext, Statistics
from gptailor.core.plugins import BASELINES
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import GUARD, Job, Proposal
from gptailor.engine import Work
from gptailor.errors import ConfigError, UserError
from gptailor.export.narrow import idle_parameters
from gptailor.family.fitted import FOLDER
from gptailor.record.entries import BaselineEntry
from gptailor.record.journal import Journal
from gptailor.report.baselines import cut_layers
from gptailor.searchers.searcher import ProposalGenerator, SearchContext
from gptailor.study.plan import roughly

__all__ = ["with_baselines"]


def with_baselines(
    assembly: Assembly, journal: Journal, on_message: Callable[[str], None]
) -> Assembly:
    """Make an assembly propose the tailorings of the baselines that its config names.

    Each outcome is recorded, and taken from the record at the next start. `on_message` gets
    sentences about the progress.

    Raises:
        ConfigError: The calibration texts can't be read.
    """
    assembly = dataclasses.replace(
        assembly,
        plan=dataclasses.replace(assembly.plan, tests_all=True),
        space=dataclasses.replace(assembly.space, repair=None),  # each is repaired when computed
    )
    baselines = _Baselines(assembly, journal, on_message)
    if not baselines.known.keys() >= set(baselines.names):
        baselines.open_statistics()
    return dataclasses.replace(assembly, proposals=baselines.propose)


class _Baselines:
    """Computes baselines and records their outcomes."""

    def __init__(
        self, assembly: Assembly, journal: Journal, on_message: Callable[[str], None]
    ) -> None:
        self._assembly, self._journal, self._on_message = assembly, journal, on_message
        self._fitted = journal.path.with_name(FOLDER)
        asked = assembly.config.search.options
        self.names: list[str] = asked["names"]
        self._member, self._seed, self._options = asked["member"], asked["seed"], asked["options"]
        self.known = {entry.name: entry for entry in journal.of(BaselineEntry)}

    def propose(self, context: SearchContext) -> ProposalGenerator:
        """Propose the tailoring of each baseline, on the last rung."""
        failures = []
        for name in self.names:
            entry = self.known.get(name) or self._computed(name)
            if entry.tailoring is not None:
                origin = f"{name} on {self._member}"
                yield (Proposal(entry.tailoring, context.rungs[-1], origin),)
            else:
                failures.append(f"the baseline {name} on {self._member}: {entry.failure}")
        if len(failures) == len(self.names):
            raise ConfigError(failures)

    @cached_property
    def _statistics(self) -> Statistics:
        n_tokens = self._assembly.config.calibration.baseline_tokens
        rows = self._assembly.repairs.calibration.first(n_tokens).rows
        return Statistics(self._assembly.evaluator.engine, self._member, rows)

    def open_statistics(self) -> None:
        """Read the calibration texts; only the speed of this machine is measured."""
        n_tokens, plan = self._statistics.n_tokens, self._assembly.plan
        expected = f"calibration: {n_tokens:,} tokens"
        if not evaluates_apart(self._assembly.config):
            n_layers, speed = plan.n_layers, self._assembly.measure_speed(None)
            one = Work(layer_tokens=n_tokens * n_layers, n_runs=n_layers, input_tokens=n_tokens)
            expected += f", {roughly(speed.seconds(one, 0))} for a pass through a model"
            whole, words = Tailoring.whole(BASE, n_layers), {"test": "the test split"}
            for split, what in (words | ({GUARD: "the guard"} if plan.guard else {})).items():
                work = self._assembly.evaluator.count([Job(whole, plan.sizes[split], split)])
                expected += f"; {what}: {roughly(speed.seconds(work, 0))} a model"
        self._on_message(expected)

    def _computed(self, name: str) -> BaselineEntry:
        """Compute a baseline and record it, with the reason where the family can't express it."""
        statistics, family = self._statistics, self._assembly.family
        turn = f"baseline {self.names.index(name) + 1} of {len(self.names)}"
        self._on_message(f"{turn}, {name} on {self._member}: computing ...")
        statistics.begin()
        started, before = time.perf_counter(), statistics.layer_tokens
        tailoring = failure = None
        repairs, repair_tokens = self._assembly.repairs, 0
        try:
            context = BaselineContext(statistics, self._assembly.space, self._seed)
            found = BASELINES.get(name)(context, **self._options.get(name, {}))
            found_after = repairs.engine.stream_layer_tokens
            tailoring = repairs.repaired(found)
            repair_tokens = repairs.engine.stream_layer_tokens - found_after
            family.check(tailoring)
            family.fitted.save(tailoring, self._fitted)
            family.fitted.drop(spec.fitted for spec in tailoring.layers)
        except UserError as error:
            tailoring, failure = None, "; ".join(error.problems)
        entry = BaselineEntry(
            name=name,
            member=self._member,
            tailoring=tailoring,
            failure=failure,
            seconds=round(time.perf_counter() - started, 3),
            layer_tokens=statistics.layer_tokens - before + repair_tokens,
            alone_layer_tokens=statistics.used + repair_tokens,
            idle_parameters=0 if tailoring is None else idle_parameters(family, tailoring),
        )
        self._journal.append(entry)
        cuts = () if tailoring is None else cut_layers(tailoring, family.n_layers)
        outcome = failure or (f"without {', '.join(map(str, cuts))}" if cuts else "no layer is cut")
        self._on_message(
            f"{name} on {self._member}: {entry.seconds:.1f} s, "
            f"{entry.layer_tokens:,} layer-tokens; {outcome}"
        )
        return entry
