"""Config -> Family, tasks, Evaluator, Searcher, WorkerPool, Study: the only wiring.

Knows every part by its constructor; no part knows the config.
"""

import functools
import importlib.metadata
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptailor.app.header import header_of, task_digest
from gptailor.config import Config
from gptailor.config.schema import PluginConfig
from gptailor.core.objective import Goal, Objective
from gptailor.core.plugins import MERGE_METHODS, SEARCHERS, WORKERS
from gptailor.core.tailoring import Tailoring
from gptailor.engine import Engine, Evaluator
from gptailor.engine.cpu.allocator import keep_freed_pages
from gptailor.engine.device import device_of, dtype_of
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.errors import ConfigError, UserError
from gptailor.family import Family, load_family, tailored_config
from gptailor.family.in_memory import MEMORY
from gptailor.record.compatibility import check_header
from gptailor.record.entries import Header
from gptailor.record.journal import RECORD, Journal, read_record
from gptailor.searchers.searcher import SearchContext, Searcher, check_options, make_searcher
from gptailor.searchers.space import Space
from gptailor.study import Plan, Progress, Study
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.splits import TaskSplits
from gptailor.workers import WorkerPool

__all__ = [
    "Assembly",
    "ConfigEvaluatorFactory",
    "assemble",
    "evaluates_apart",
    "load_members",
    "max_length_of",
    "open_study",
    "open_tasks",
    "probe_workers",
    "with_recorded_settings",
]

_MAX_LENGTH = 2048  # tokens; longer inputs are cut from the left, as lm-eval does


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything that a study, a check or an export needs, put together."""

    config: Config
    family: Family
    tasks: Mapping[str, TaskSplits]
    evaluator: Evaluator
    space: Space
    plan: Plan

    def searcher(self, objective: Objective) -> Searcher:
        """Make the configured searcher."""
        chosen = self.config.search
        context = SearchContext(
            space=self.space,
            objective=objective,
            rungs=self.plan.rungs,
            max_trials=self.plan.max_trials,
            seed=self.config.seed,
        )
        return make_searcher(SEARCHERS.get(chosen.name), context, chosen.options)

    def pool(self) -> WorkerPool:
        """Make the configured worker pool; its workers are started when there is work.

        Raises:
            ConfigError: An option, or the machine or cluster it asks for, is invalid.
        """
        return _pool(self.config, self.evaluator, self.evaluator_factory)

    def evaluator_factory(self) -> "ConfigEvaluatorFactory":
        """How another process, here or elsewhere, makes this evaluator."""
        dtype = str(self.family.dtype).removeprefix("torch.")
        family = self.config.family.model_copy(update={"dtype": dtype})
        return ConfigEvaluatorFactory(
            self.config.model_copy(update={"family": family}), _facts(self.family, self.tasks)
        )


@dataclass(frozen=True, slots=True)
class ConfigEvaluatorFactory:
    """How a worker makes the evaluator of a study.

    Args:
        config: The study's, its dtype settled; paths in it are read where the worker is.
        facts: What must be the same there: ``weights of member math`` and the like to a digest or
            a version.
    """

    config: Config
    facts: Mapping[str, str]

    @property
    def device(self) -> str:
        """Where evaluators are to run."""
        return self.config.engine.device

    @property
    def threads(self) -> int | None:
        """CPU threads of each evaluator, if the config says."""
        return self.config.engine.threads

    def __call__(self, *, device: str, threads: int) -> Evaluator:
        """Make an evaluator in this process, and compare it with the first one.

        Raises:
            UserError: Something is invalid here, or differs from where the study runs.
        """
        for method in self.config.merge:
            MERGE_METHODS.load(method)  # unpickling a config does not
        engine = self.config.engine.model_copy(update={"device": device, "threads": threads})
        here = {"engine": engine, "workers": PluginConfig(name="local")}
        assembly = assemble(self.config.model_copy(update=here))
        facts = _facts(assembly.family, assembly.tasks)
        problems = [
            f"worker on {platform.node()}: the {what} is {facts.get(what)}, but {wanted} where the "
            "study runs; give every machine the same files and versions"
            for what, wanted in self.facts.items()
            if facts.get(what) != wanted
        ]
        if problems:
            raise ConfigError(problems)
        return assembly.evaluator


def _facts(family: Family, tasks: Mapping[str, TaskSplits]) -> dict[str, str]:
    """What two processes must agree on, so that their scores can stand in one record."""
    libraries = ("gptailor", "torch", "transformers")
    return {
        **{f"version of {name}": importlib.metadata.version(name) for name in libraries},
        **{f"digest of member {name}": digest for name, digest in family.digests.items()},
        **{f"digest of task {name}": task_digest(parts) for name, parts in tasks.items()},
    }


def load_members(config: Config, *, home: str | None = None) -> Family:
    """Load the family of a config, in the dtype and on the device that it asks for.

    With a limit to the members in memory they stay in files.

    Args:
        config: What to load.
        home: Where to hold the members, if not where the config says.

    Raises:
        UserError: A member can't be read or does not fit, or is in no file.
    """
    if config.family.base.path.startswith(MEMORY):
        raise ConfigError(
            "the members of this run were in memory and are in no files: make them again, and give "
            "them with family=..."
        )
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    device = device_of(config.engine.device)
    mapped = config.engine.member_bytes is not None
    return load_family(
        config.family.base,
        config.family.variants,
        dtype=dtype_of(config.family.dtype, device),
        device="cpu" if mapped else home or device,
        mapped=mapped,
    )


def open_tasks(config: Config, family: Family) -> dict[str, TaskSplits]:
    """Load, divide and tokenise the tasks of a config; names to parts, in the config's order."""
    shares = config.examples
    return load_tasks(
        config.tasks,
        family.tokenizer,
        max_length=max_length_of(config, family),
        seed=config.seed,
        shares=(shares.search, shares.selection, shares.test),
        n_tokens=family.config.vocab_size,
    )


def max_length_of(config: Config, family: Family) -> int:
    """Most tokens fed at once: the config's, or the model's own up to 2,048."""
    known = family.config.to_dict().get("max_position_embeddings")  # absent where unlimited
    return config.engine.max_length or min(known or _MAX_LENGTH, _MAX_LENGTH)


def assemble(
    config: Config,
    *,
    family: Family | None = None,
    tasks: Mapping[str, TaskSplits] | None = None,
) -> Assembly:
    """Put everything together: the members loaded, the tasks tokenised, the engine checked.

    Args:
        config: The whole config.
        family: The members, if they are in memory.
        tasks: The tasks, if they are loaded.

    Raises:
        UserError: Something in the config, a member or a task is invalid.
    """
    keep_freed_pages()
    if family is not None and evaluates_apart(config):
        raise ConfigError(
            "workers: other processes read the members from files, and these are in memory; leave "
            "'workers' out, or save the models and name their folders"
        )
    home = _home(config)
    family = family or load_members(config, home=home)
    n_removed, tasks = _fitted(config, family, tasks)
    engine = Engine(
        family,
        device=home,
        cache_bytes=config.engine.cache_bytes,
        member_bytes=config.engine.member_bytes,
    )
    refuse_inexact(engine)
    family.release_pages()
    plan = _plan(config, family, tasks, n_removed)
    evaluator = Evaluator(
        engine,
        {
            "search": [parts.search for parts in tasks.values()],
            "selection": [parts.selection for parts in tasks.values()],
            "test": [parts.test for parts in tasks.values()],
        },
        rungs=plan.rungs,
        teachers={
            name: task.member
            for name, task in zip(tasks, config.tasks, strict=True)
            if task.member is not None
        },
    )
    space = Space(
        plan.n_layers,
        plan.n_removed,
        tuple(config.family.variants),
        config.merge,
        keep=frozenset(config.keep),
        kinds=family.kinds,
        tied=family.tied,
        allowed=_expressible(family),
        outer_variants=_outer_variants(family),
    )
    check_options(SEARCHERS.get(config.search.name), config.search.options, space, plan.rungs)
    return Assembly(config, family, tasks, evaluator, space, plan)


def probe_workers(config: Config) -> WorkerPool:
    """The pool of a config without its evaluator: tells early what it lacks; to be closed last."""
    return _pool(config, None, lambda: ConfigEvaluatorFactory(config, {}))


def _pool(
    config: Config, evaluator: Evaluator | None, get_factory: Callable[[], ConfigEvaluatorFactory]
) -> WorkerPool:
    chosen = config.workers
    make = WORKERS.get(chosen.name)
    pool: WorkerPool = make(evaluator, get_factory=get_factory, **chosen.options)
    return pool


def evaluates_apart(config: Config) -> bool:
    """Whether other processes than this one evaluate."""
    chosen = config.workers
    return chosen.name != "local" or chosen.options.get("n_workers") is not None


def _home(config: Config) -> str:
    """Where this process runs layers: not on a GPU that one of its workers needs."""
    device = device_of(config.engine.device)
    return "cpu" if evaluates_apart(config) and device.startswith("cuda") else device


def _fitted(
    config: Config, family: Family, tasks: Mapping[str, TaskSplits] | None
) -> tuple[int, Mapping[str, TaskSplits]]:
    """Layers to cut, and the tasks; the problems of both are told at once."""
    problems: list[str] = []
    n_removed = 0
    try:
        n_removed = config.n_removed(family.n_layers)
    except UserError as error:
        problems += error.problems
    try:
        tasks = open_tasks(config, family) if tasks is None else tasks
    except UserError as error:
        problems += error.problems
    if problems or tasks is None:
        raise ConfigError(problems)
    return n_removed, tasks


def open_study(
    assembly: Assembly,
    journal: Journal,
    *,
    on_progress: Callable[[Progress], None],
    pool: WorkerPool | None = None,
) -> Study:
    """Make the study of an assembly on an open record; a new record gets its header.

    Args:
        assembly: Everything put together.
        journal: The open record.
        on_progress: Told of every step.
        pool: Where evaluations run; the configured one if absent, left open.
    """
    pool = pool or assembly.pool()
    header = header_of(assembly.config, assembly.family, assembly.tasks, plan=assembly.plan)
    recorded = journal.header()
    if recorded is not None:
        check_header(recorded, header, journal.path)
    else:
        journal.append(header)
    return Study(journal, pool, assembly.searcher, plan=assembly.plan, on_progress=on_progress)


def with_recorded_settings(config: Config, folder: Path) -> Config:
    """Take what a config leaves open from the record in a folder, if there is one.

    That is ``dtype: auto``, and the order of the variants: a mapping has none, but a searcher does.
    """
    lines = read_record(folder / RECORD) if (folder / RECORD).exists() else []
    if not lines or not isinstance(header := lines[0][1], Header):
        return config
    recorded, family = header.config["family"], config.family
    update: dict[str, Any] = {"dtype": recorded["dtype"]} if family.dtype == "auto" else {}
    order = recorded.get("variants")
    if isinstance(order, Mapping) and set(order) == set(family.variants):
        update["variants"] = {name: family.variants[name] for name in order}
    return config.model_copy(update={"family": family.model_copy(update=update)})


def _plan(config: Config, family: Family, tasks: Mapping[str, TaskSplits], n_removed: int) -> Plan:
    sizes = {
        part: max(getattr(parts, part).n_examples for parts in tasks.values())
        for part in ("search", "selection", "test")
    }
    most = sizes["search"]
    rungs = tuple(sorted({min(rung, most) for rung in config.budget.rungs}))
    goals = tuple(
        Goal(name, task.metric, weight=task.weight)
        for name, task in zip(tasks, config.tasks, strict=True)
    )
    return Plan(
        goals=goals,
        members=family.members,
        n_layers=family.n_layers,
        n_removed=n_removed,
        rungs=rungs,
        sizes=sizes,
        max_trials=config.budget.max_trials,
        timeout_s=config.budget.timeout_s,
        finalists=config.budget.finalists,
    )


def _expressible(family: Family) -> Callable[[Tailoring], bool] | None:
    """What the architecture's config can say; None where it can say any order of layers."""
    if len(set(family.kinds)) == 1:
        return None

    @functools.cache  # asked for the same cuts over and over
    def positions_fit(positions: tuple[int, ...]) -> bool:
        try:
            tailored_config(family.config, positions)
        except UserError:
            return False
        return True

    return lambda tailoring: positions_fit(tuple(spec.position for spec in tailoring.layers))


def _outer_variants(family: Family) -> tuple[str, ...]:
    """Variants whose embedding, norm or head is not the base's own."""

    def differs(member: str) -> bool:
        for part in ("embedding", "norm", "head"):
            ours, base = family.outer_part(part, member), family.outer_part(part, "base")
            if any(ours[name] is not base[name] for name in base):
                return True
        return False

    return tuple(member for member in family.members if member != "base" and differs(member))
