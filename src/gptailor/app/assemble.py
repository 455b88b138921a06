"""Make every part of a search from a config, and a study of the parts with its costs.

Constructors take plain values: no part sees the config.
"""

import dataclasses
import functools
import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptailor.app.coefficient_slopes import CoefficientSlopes, fits_coefficients, n_steps_of
from gptailor.app.expressible import expressible, outer_variants
from gptailor.app.greedy_tasks import guard_tasks, texts_member, with_generation, written_texts
from gptailor.app.header import header_of, task_digest
from gptailor.app.inputs import load_members, open_calibration, open_tasks
from gptailor.app.repairs import Repairs
from gptailor.app.study_plan import by_split, plan_of
from gptailor.app.targets import resolve_target
from gptailor.app.teachers import with_teachers
from gptailor.config import Config
from gptailor.config.sections import PluginConfig
from gptailor.core.objective import Objective
from gptailor.core.plugins import MERGE_METHODS, SEARCHERS, WORKERS
from gptailor.core.specs import BASELINE, GENERATION
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import GUARD, Scores, Trial
from gptailor.engine import Engine, Evaluator
from gptailor.engine.device import device_of
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.errors import ConfigError, UserError
from gptailor.family import Family
from gptailor.family.fitted import FOLDER
from gptailor.forecast.dry_run import CountingPool, MemoryJournal
from gptailor.forecast.forecast import forecast, speed_with
from gptailor.forecast.speed import Speed
from gptailor.record.compatibility import check_header
from gptailor.record.entries import Entry, ForecastEntry, OwnTextsEntry
from gptailor.record.journal import Journal
from gptailor.searchers.searcher import (
    FittedWhole,
    SearchContext,
    Searcher,
    SearchFunction,
    check_options,
    make_searcher,
)
from gptailor.searchers.space import Space
from gptailor.study import Plan, Progress, Study
from gptailor.tasks.greedy_text import OwnText
from gptailor.tasks.splits import TaskSplits
from gptailor.tasks.task import Task
from gptailor.workers import WorkerPool, WorkerSetup

__all__ = [
    "Assembly",
    "ConfigEvaluatorFactory",
    "assemble",
    "evaluates_apart",
    "evaluator_on",
    "open_pool",
    "open_study",
]


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything that a study or a check needs; in `config` the dtype is no longer ``auto``."""

    config: Config
    family: Family
    tasks: Mapping[str, TaskSplits]
    evaluator: Evaluator
    space: Space
    plan: Plan
    repairs: Repairs
    slopes: CoefficientSlopes  # by which merging coefficients are fitted, in `plan.n_steps`
    measure_speed: Callable[[WorkerSetup | None], Speed]  # of worker processes, or of this one
    target: str = ""  # how it was resolved, a sentence; empty where it was before, or is none
    own_texts: tuple[OwnText, ...] = ()  # of a whole member; none without guard and objective
    proposals: SearchFunction | None = None  # instead of the configured searcher, if given
    earlier: tuple[Trial, ...] = ()  # of the same ladder, with fewer layers cut
    fitted: FittedWhole | None = None  # by the first search of the ladder
    known: tuple[Entry, ...] = ()  # of whole members, that the ladder has measured already

    def searcher(
        self,
        objective: Objective,
        references: Mapping[str, Scores],
        fitted: FittedWhole | None,
    ) -> Searcher:
        """Make the configured searcher, or that of `proposals`."""
        chosen, layer_tokens = self.config.search, self.plan.layer_tokens
        if layer_tokens is not None and fitted is not None:
            layer_tokens = max(1, layer_tokens - fitted.layer_tokens)
        space = self.space
        if fitted is not None:
            space = dataclasses.replace(space, fitted=fitted.tailoring)
        context = SearchContext(
            space=space,
            objective=objective,
            rungs=self.plan.rungs,
            max_trials=self.plan.max_trials,
            seed=self.config.seed,
            layer_tokens=layer_tokens,
            example_tokens=self.evaluator.tokens("search", 0, self.plan.rungs[-1])
            / self.plan.rungs[-1],
            references=references,
            earlier=self.earlier,
        )
        if self.proposals is not None:
            return make_searcher(self.proposals, context)
        return make_searcher(SEARCHERS.get(chosen.name), context, chosen.options)

    def pool(self) -> WorkerPool:
        """Make the configured worker pool; its workers are started when there is work."""
        return open_pool(self.config, self)

    def forecast(self, setup: WorkerSetup | None = None) -> ForecastEntry:
        """Predict what a search costs, in this process if there is no `setup`."""
        return self.dry_run(setup)[0]

    def dry_run(
        self, setup: WorkerSetup | None
    ) -> tuple[ForecastEntry, tuple[Trial, ...], MemoryJournal]:
        """What a search costs; and the trials and the record that it would come to."""
        group_size = self.config.workers.options.get("group_size", 16)
        speed = self.measure_speed(setup)
        fits = self.repairs.fit_tokens if self.proposals is None else None
        step_tokens = self.slopes.layer_tokens if self.plan.n_steps else 0
        pool = CountingPool(
            self.evaluator,
            speed,
            setup=setup,
            group_size=group_size,
            fits=fits,
            step_tokens=step_tokens,
        )
        return forecast(self.plan, self.searcher, pool, self.known, self.fitted)

    def evaluator_factory(self) -> "ConfigEvaluatorFactory":
        """How another process, here or elsewhere, makes this evaluator."""
        facts, folders = _facts(self.family, self.tasks), self.family.fitted.folders
        return ConfigEvaluatorFactory(self.config, facts, folders, self.own_texts)


@dataclass(frozen=True, slots=True)
class ConfigEvaluatorFactory:
    """How a worker makes the evaluator of a study."""

    config: Config  # the study's; paths in it are read where the worker is
    # what must be equal there: ``digest of member math`` and the like to its value
    facts: Mapping[str, str]
    fitted: tuple[Path, ...] = ()  # folders of fitted tensors that candidates may name
    own_texts: tuple[OwnText, ...] = ()  # written where the study runs

    @property
    def device(self) -> str:
        """Where evaluators are to run."""
        return self.config.engine.device

    @property
    def threads(self) -> int | None:
        """CPU threads of each evaluator, if the config says."""
        return self.config.engine.threads

    def __call__(self, *, device: str, threads: int) -> Evaluator:
        """Make an evaluator in this process, and refuse one that differs from the first."""
        for method in self.config.merge:
            MERGE_METHODS.load(method)  # unpickling a config does not
        engine = self.config.engine.model_copy(update={"device": device, "threads": threads})
        # a worker proposes nothing: the searcher's library need not be there
        local = {"workers": PluginConfig(name="local"), "search": PluginConfig(name="evolution")}
        config = self.config.model_copy(update={"engine": engine} | local)
        assembly = assemble(config, own_texts=self.own_texts)
        facts = _facts(assembly.family, assembly.tasks)
        problems = [
            f"worker on {platform.node()}: the {what} is {facts.get(what)}, but {wanted} where the "
            "study runs; give every machine the same files and versions"
            for what, wanted in self.facts.items()
            if facts.get(what) != wanted
        ]
        if problems:
            raise ConfigError(problems)
        for folder in self.fitted:
            assembly.family.fitted.look_in(folder)
        return assembly.evaluator


def _facts(family: Family, tasks: Mapping[str, TaskSplits]) -> dict[str, str]:
    """What must be equal in two processes, so that their scores are comparable."""
    libraries = ("gptailor", "torch", "transformers")
    return {
        **{f"version of {name}": importlib.metadata.version(name) for name in libraries},
        **{f"digest of member {name}": digest for name, digest in family.digests.items()},
        **{f"digest of task {name}": task_digest(parts) for name, parts in tasks.items()},
    }


def assemble(
    config: Config,
    *,
    family: Family | None = None,
    tasks: Mapping[str, TaskSplits] | None = None,
    own_texts: tuple[OwnText, ...] = (),
    runs: bool = True,
) -> Assembly:
    """Load what is not in memory, check the engine, and put everything together.

    Own texts that are not given are written, or made up where nothing `runs`.
    """
    if family is not None and evaluates_apart(config):
        raise ConfigError(
            "workers: other processes read the members from files, and these are in memory; leave "
            "'workers' out, or save the models and name their folders"
        )
    device = device_of(config.engine.device)
    if evaluates_apart(config) and device.startswith("cuda"):
        device = "cpu"  # this process does not fill a GPU that one of its workers needs
    family = family or load_members(config, device=device)
    config, target, tasks = _fitted(config, family, tasks)
    limits = config.engine
    engine = Engine(
        family, device=device, cache_bytes=limits.cache_bytes, member_bytes=limits.member_bytes
    )
    refuse_inexact(engine)
    family.release_pages()
    repairs = Repairs(
        config.repair, engine, functools.partial(open_calibration, config, family, tasks)
    )
    own_texts = own_texts or written_texts(engine, config, made_up=not runs)
    tasks = with_generation(config, with_teachers(engine, tasks), own_texts)
    guarded = guard_tasks(engine, own_texts) if config.guard else []
    plan = plan_of(config, family, tasks, guarded)
    member = texts_member(config)
    evaluator = evaluator_on(engine, tasks, rungs=plan.rungs, guarded=guarded, member=member)
    space = Space(
        plan.n_layers,
        plan.n_removed,
        tuple(config.family.variants),
        config.merge,
        keep=frozenset(config.keep),
        kinds=family.kinds,
        tied=family.tied,
        allowed=expressible(family),
        outer_variants=outer_variants(family),
        repair=repairs.repairer,
    )
    slopes = CoefficientSlopes(engine, [splits.search for splits in tasks.values()], plan.goals)
    if fits_coefficients(config, plan):
        n_steps = n_steps_of(config.budget, slopes.layer_tokens, plan, evaluator)
        plan = dataclasses.replace(plan, n_steps=n_steps, fit_part=config.budget.coefficients)
    if config.search.name != BASELINE:
        check_options(SEARCHERS.get(config.search.name), config.search.options, space, plan.rungs)
    dtype = str(family.dtype).removeprefix("torch.")
    resolved = config.family.model_copy(update={"dtype": dtype})
    pairs = zip(config.tasks, tasks.values(), strict=True)
    named = tuple(one.model_copy(update={"member": t.spec.member}) for one, t in pairs)
    config = config.model_copy(update={"family": resolved, "tasks": named})
    speed = functools.partial(speed_with, plan=plan, space=space, evaluator=evaluator)
    return Assembly(
        config,
        family,
        tasks,
        evaluator,
        space,
        plan,
        repairs,
        slopes,
        functools.cache(speed),
        target,
        own_texts,
    )


def evaluator_on(
    engine: Engine,
    tasks: Mapping[str, TaskSplits],
    *,
    rungs: tuple[int, ...] = (),
    guarded: Sequence[Task] = (),
    member: str = BASE,
) -> Evaluator:
    """Make the evaluator of loaded tasks.

    Rungs are numbers of search examples; what is `guarded` are tasks of greedy text, with the own
    texts of `member`.
    """
    tasks = with_teachers(engine, tasks)
    teachers = {name: s.spec.member for name, s in tasks.items() if s.spec.member is not None}
    if guarded:
        teachers[GENERATION] = member
    splits = {**by_split(tasks), GUARD: guarded}
    return Evaluator(engine, splits, rungs=rungs, teachers=teachers)


def open_pool(config: Config, assembly: Assembly | None = None) -> WorkerPool:
    """Make the configured pool; without an assembly it only shows problems early."""
    get_factory: Callable[[], ConfigEvaluatorFactory]
    evaluator, get_factory = None, functools.partial(ConfigEvaluatorFactory, config, {})
    if assembly is not None:
        evaluator, get_factory = assembly.evaluator, assembly.evaluator_factory
    make = WORKERS.get(config.workers.name)
    pool: WorkerPool = make(evaluator, get_factory=get_factory, **config.workers.options)
    return pool


def evaluates_apart(config: Config) -> bool:
    """Whether other processes than this one evaluate."""
    chosen = config.workers
    return chosen.name != "local" or chosen.options.get("n_workers") is not None


def _fitted(
    config: Config, family: Family, tasks: Mapping[str, TaskSplits] | None
) -> tuple[Config, str, Mapping[str, TaskSplits]]:
    """The config with its target resolved, and the tasks; the problems of both are raised at once.

    The text says how the target was resolved; it is empty without one.
    """
    target, problems = "", list[str]()
    try:
        config, target = resolve_target(config, family)
        config.depths(family.n_layers)
    except UserError as error:
        problems += error.problems
    try:
        tasks = open_tasks(config, family) if tasks is None else tasks
    except UserError as error:
        problems += error.problems
    if problems or tasks is None:
        raise ConfigError(problems)
    return config, target, tasks


def open_study(
    assembly: Assembly,
    journal: Journal,
    *,
    on_progress: Callable[[Progress], None],
    on_chosen: Callable[[Study, Tailoring], None] = lambda _study, _chosen: None,
    pool: WorkerPool | None = None,
) -> Study:
    """Make a study on an open record; a new record gets its header.

    `pool` is where evaluations run; the configured one if absent, left open. `on_chosen` is called
    before the test split is scored.
    """
    pool = pool or assembly.pool()
    config, digest = assembly.config, None
    calibrated = assembly.space.repair is not None or assembly.proposals is not None
    if calibrated and config.calibration.texts is not None:  # else the tasks' digests are enough
        digest = assembly.repairs.calibration.digest
    header = header_of(
        config,
        assembly.family,
        assembly.tasks,
        plan=assembly.plan,
        calibration=digest,
        target=assembly.target or None,
    )
    recorded = journal.header()
    if recorded is not None:
        check_header(recorded, header, journal.path)
    else:
        journal.append(header)
        for entry in assembly.known:
            journal.append(entry)
    if assembly.own_texts and not any(journal.of(OwnTextsEntry)):
        texts = tuple(map(dataclasses.astuple, assembly.own_texts))
        journal.append(OwnTextsEntry(member=texts_member(config), texts=texts))
    refit = None
    if assembly.space.repair is not None:
        folder = journal.path.with_name(FOLDER)
        assembly.family.fitted.look_in(folder)
        refit = functools.partial(assembly.repairs.entry_of, folder=folder)
    return Study(
        journal,
        pool,
        assembly.searcher,
        plan=assembly.plan,
        refit=refit,
        slopes=assembly.slopes,
        fitted=assembly.fitted,
        on_chosen=on_chosen,
        on_progress=on_progress,
    )
