"""Run the real study without models: its work is counted, its scores are made up.

Searchers see only scores, so with made-up scores one asks about as much as it would with real ones.
"""

import contextlib
import heapq
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gptailor.core.lru_cache import LruCache
from gptailor.core.objective import Objective
from gptailor.core.repair import fitted_from
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.core.trial import Evaluation, Job, Scores, Trial
from gptailor.engine import Evaluator, Work
from gptailor.engine.slopes import PASSES
from gptailor.errors import RecordError
from gptailor.forecast.made_up_scores import MadeUpScores
from gptailor.forecast.speed import Speed
from gptailor.record.entries import Entry, EntryT, SlopeEntry, of_type
from gptailor.searchers.searcher import FittedWhole, MakeSearcher, Searcher
from gptailor.study import Plan, Progress, Study
from gptailor.workers import WorkerSetup
from gptailor.workers.grouping import divided

__all__ = ["CountingPool", "FitTokens", "MemoryJournal", "dry_run"]


@dataclass(frozen=True, slots=True)
class FitTokens:
    """From how many tokens layers before cuts are fitted."""

    search: int  # in a search, once for each layer and end of a cut
    exact: int  # of a finalist


class CountingPool:
    """A worker pool that counts what jobs cost, and returns made-up scores.

    Args:
        evaluator: Counts the work of jobs.
        speed: Of each kind of work.
        setup: The processes that will evaluate; None if it is this one.
        group_size: Most candidates evaluated together.
        fits: The fits of a repair, if there is one.
        step_tokens: Layer-tokens of a step in which merging coefficients are fitted.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        speed: Speed,
        *,
        setup: WorkerSetup | None = None,
        group_size: int = 16,
        fits: FitTokens | None = None,
        step_tokens: int = 0,
    ) -> None:
        self.phase = "references"  # of the study, that the next jobs are part of
        self.seconds = 0.0  # wall-clock time so far: of all jobs, and of searchers between them
        self.work: dict[str, Work] = {}  # phase -> work of its jobs
        self.merged_bytes = 0  # most bytes of merged layers in one process
        self.made_up = MadeUpScores(evaluator.tasks, evaluator.engine.family.n_layers)
        self.setup, self._group_size = setup, group_size
        self.evaluator, self._speed = evaluator, speed
        n_workers = 1 if setup is None else setup.n_workers
        cache_bytes = evaluator.engine.cache_bytes
        self._merged = [LruCache[LayerSpec, bool](cache_bytes) for _ in range(n_workers)]
        self._fits, self._step_tokens = fits, step_tokens
        self._fitted: list[set[LayerSpec | str]] = [set() for _ in range(n_workers)]
        self._returned = time.perf_counter()

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Count each group for the worker that is free first, then make scores up."""
        self.seconds += time.perf_counter() - self._returned
        n_workers, groups = len(self._merged), self._groups(jobs)
        crowding = 1.0 if self.setup is None or len(groups) == 1 else self.setup.crowding
        free = [(0.0, worker) for worker in range(n_workers)]  # (seconds until free, worker)
        layer_tokens: dict[int, int] = {}  # index of a job -> its share of the group's
        for group in groups:
            busy, worker = free[0]
            work = self.evaluator.count([jobs[index] for index in group])
            work += self._fit_work([jobs[index].tailoring for index in group], worker)
            n_merged = sum(self._is_made(spec, self._merged[worker]) for spec in work.merges)
            seconds = self._speed.seconds(work, n_merged) * crowding
            heapq.heapreplace(free, (busy + seconds, worker))
            layer_tokens |= dict.fromkeys(group, round(work.layer_tokens / len(group)))
            self.work[self.phase] = self.work.get(self.phase, Work()) + replace(work, merges=())
        self.seconds += max(free)[0]
        evaluations = [
            Evaluation(self.made_up.scores(job), layer_tokens=layer_tokens[index])
            for index, job in enumerate(jobs)
        ]
        self._returned = time.perf_counter()
        return evaluations

    def refit(self, n_layers: int, n_kept: int) -> None:
        """Count the exact refit of one finalist, of which all layers may be refitted."""
        if self._fits is not None:
            work = Work(layer_tokens=self._fits.exact * (n_layers + 2 * n_kept))
            self.work["refits"] = self.work.get("refits", Work()) + work
            self.seconds += self._speed.seconds(work, 0)

    def slopes(self, tailoring: Tailoring, step: int) -> SlopeEntry:
        """Count a step in which merging coefficients are fitted; the slopes are 0."""
        work = Work(layer_tokens=self._step_tokens)
        self.work["coefficients"] = self.work.get("coefficients", Work()) + work
        seconds = self._speed.seconds(work, 2 * len(tailoring.layers))
        self.seconds += seconds
        n_members = len(self.evaluator.engine.family.members) - 1
        flat = ((0.0,) * n_members,) * len(tailoring.layers)
        return SlopeEntry(
            step=step, loss=0.0, slopes=flat, seconds=seconds, layer_tokens=work.layer_tokens
        )

    @property
    def step_bytes(self) -> int:
        """Most bytes that a step of the fit of coefficients holds.

        The streams at every depth; of one layer its weights, and gradients in float32 and in the
        family's dtype.
        """
        family = self.evaluator.engine.family
        itemsize, depths = family.dtype.itemsize, family.n_layers + 1
        n_tokens = self._step_tokens // (PASSES * family.n_layers)
        states = n_tokens * depths * int(family.config.hidden_size) * itemsize
        layer = max(family.layer_parameters) * (4 + 2 * itemsize)
        return (states + layer) if n_tokens else 0

    @property
    def fit_bytes(self) -> int:
        """Most bytes that the fits of a repair hold in one process.

        Those of a search keep whole members' streams at every depth, and what is fitted; the exact
        ones hold three streams, and sums of products: two in float64, one of both, two in float32.
        """
        if self._fits is None:
            return 0
        engine = self.evaluator.engine
        family, itemsize = engine.family, engine.family.dtype.itemsize
        hidden = int(family.config.hidden_size)
        largest = max(tensor.numel() for tensor in family.layer(Source(BASE, 0)).values())
        held = 0
        for known in self._fitted:
            n_members = sum(isinstance(one, str) for one in known)
            n_states = self._fits.search * n_members * (family.n_layers + 1)
            fitted = (len(known) - n_members) * largest * itemsize
            held = max(held, n_states * hidden * itemsize + min(fitted, engine.cache_bytes))
        sums = (largest // hidden) ** 2 * (3 * 8 + 2 * 4)
        return held + 3 * self._fits.exact * hidden * itemsize + sums

    def close(self) -> None:
        """Nothing to release."""

    def _fit_work(self, tailorings: Sequence[Tailoring], worker: int) -> Work:
        """The fits of layers that a worker has not made yet, and of members' whole streams."""
        if self._fits is None:
            return Work()
        known = self._fitted[worker]
        specs = {spec for each in tailorings for spec in each.layers}
        new = {spec for spec in specs if spec.refit_to is not None and spec.fitted is None} - known
        members = {member for spec in new for member in fitted_from(spec)} - known
        known |= new | members
        n_runs = len(new) + len(members) * self.evaluator.engine.family.n_layers
        layer_tokens = self._fits.search * n_runs
        return Work(layer_tokens, unshared=layer_tokens)

    def _groups(self, jobs: Sequence[Job]) -> list[tuple[int, ...]]:
        """Indices of the jobs that one worker evaluates together."""
        if self.setup is not None and self.setup.n_workers > 1:
            return divided(jobs, self.setup.n_workers, group_size=self._group_size)
        indices, size = tuple(range(len(jobs))), self._group_size
        return [indices[start : start + size] for start in range(0, len(jobs), size)]

    def _is_made(self, spec: LayerSpec, cache: LruCache[LayerSpec, bool]) -> bool:
        """Whether a merged layer has to be made because the cache does not hold it."""
        if cache.get(spec) is not None:
            return False
        family = self.evaluator.engine.family
        cache.keep(spec, True, family.layer_parameters[spec.position] * family.dtype.itemsize)
        self.merged_bytes = max(self.merged_bytes, cache.n_bytes)
        return True


class MemoryJournal:
    """A record that is not written to disk."""

    path = Path("record.jsonl")

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.entries = list(entries)

    def append(self, entry: Entry) -> None:
        """Add an entry."""
        self.entries.append(entry)

    def of(self, entry_type: type[EntryT], kind: str | None = None) -> Iterator[EntryT]:
        """The entries of one type, or of one kind of it, in order."""
        return of_type(self.entries, entry_type, kind)


def dry_run(
    plan: Plan,
    make_searcher: MakeSearcher,
    pool: CountingPool,
    journal: MemoryJournal | None = None,
    fitted: FittedWhole | None = None,
) -> tuple[Trial, ...]:
    """Run a whole study with a new pool; the trials of its search, with made-up scores.

    Scores that `journal` has are not measured again, and the study's own are added. What an earlier
    search has `fitted` is not fitted again.
    """

    def searcher(
        objective: Objective, references: Mapping[str, Scores], fitted: FittedWhole | None
    ) -> Searcher:
        pool.phase = "search"
        return make_searcher(objective, references, fitted)

    def note(progress: Progress) -> None:
        pool.phase = progress.phase

    study = Study(
        journal or MemoryJournal(),
        pool,
        searcher,
        plan=plan,
        slopes=pool.slopes,
        fitted=fitted,
        on_progress=note,
        clock=lambda: pool.seconds,
    )
    with contextlib.suppress(RecordError):  # no time to score a candidate that could be chosen
        study.run()
    return study.trials
