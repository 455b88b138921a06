"""Config -> Family, tasks, Evaluator, Searcher, WorkerPool, Study: the only wiring.

Knows every part by its constructor; no part knows the config.
"""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from gptailor.config import Config, MemberConfig
from gptailor.engine import Engine, Evaluator
from gptailor.engine.allocator import keep_freed_pages
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.errors import ConfigError, UserError
from gptailor.family import Family, MemberSource, load_family, tailored_config
from gptailor.header import check_header, header_of
from gptailor.machine import device_of, dtype_of
from gptailor.objective import Goal, Objective
from gptailor.registry import SEARCHERS, WORKERS
from gptailor.search.searcher import Searcher
from gptailor.search.space import Space
from gptailor.study import Journal, Plan, Progress, Study
from gptailor.study.journal import RECORD, read_record
from gptailor.tailoring import Tailoring
from gptailor.tasks.harness import TaskParts, TaskRequest, load_tasks
from gptailor.trial import Scores

__all__ = [
    "Assembly",
    "assemble",
    "load_members",
    "max_length_of",
    "open_study",
    "open_tasks",
    "run_folder",
    "settled",
]

_MAX_LENGTH = 2048  # tokens; longer inputs are cut from the left, as lm-eval does


@dataclass(frozen=True, slots=True)
class Assembly:
    """Everything that a study, a check or an export needs, put together."""

    config: Config
    family: Family
    tasks: Mapping[str, TaskParts]
    evaluator: Evaluator
    space: Space
    plan: Plan

    def searcher(self, objective: Objective) -> Searcher:
        """Make the configured searcher."""
        chosen = self.config.search
        searcher: Searcher = SEARCHERS.get(chosen.name)(
            space=self.space,
            objective=objective,
            rungs=self.plan.rungs,
            max_trials=self.plan.max_trials,
            seed=self.config.seed,
            **chosen.options,
        )
        return searcher


def run_folder(config_path: Path) -> Path:
    """Where a config's study is recorded when nobody says: ``runs/NAME`` beside the config."""
    return config_path.resolve().parent / "runs" / config_path.stem


def load_members(config: Config) -> Family:
    """Load the family of a config, in the dtype and on the device that it asks for.

    With a limit to the members in memory they stay in files.
    """
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    device = device_of(config)
    mapped = config.engine.member_bytes is not None
    return load_family(
        _source(config.family.base),
        {name: _source(member) for name, member in config.family.variants.items()},
        dtype=dtype_of(config, device),
        device="cpu" if mapped else device,
        mapped=mapped,
    )


def open_tasks(config: Config, family: Family) -> dict[str, TaskParts]:
    """Load, divide and tokenise the tasks of a config; names to parts, in the config's order."""
    requests = [
        TaskRequest(
            name=task.name,
            metric=task.metric,
            split=task.split,
            report_split=task.report_split,
            report_task=task.report_task,
            num_fewshot=task.num_fewshot,
            limit=task.limit,
            report_limit=task.report_limit,
            member=task.member,
        )
        for task in config.tasks
    ]
    shares = config.examples
    return load_tasks(
        requests,
        family.tokenizer,
        max_length=max_length_of(config, family),
        seed=config.seed,
        shares=(shares.search, shares.choose, shares.report),
    )


def max_length_of(config: Config, family: Family) -> int:
    """Most tokens fed at once: the config's, or the model's own up to 2,048."""
    known = family.config.to_dict().get("max_position_embeddings")  # absent where unlimited
    return config.engine.max_length or min(known or _MAX_LENGTH, _MAX_LENGTH)


def assemble(config: Config) -> Assembly:
    """Put everything together: the members loaded, the tasks tokenised, the engine checked.

    Raises:
        UserError: Something in the config, a member or a task is at fault.
    """
    keep_freed_pages()
    family = load_members(config)
    n_removed, tasks = _fitted(config, family)
    engine = Engine(
        family,
        device=device_of(config),
        cache_bytes=config.engine.cache_bytes,
        member_bytes=config.engine.member_bytes,
    )
    refuse_inexact(engine)
    family.rest()
    plan = _plan(config, family, tasks, n_removed)
    evaluator = Evaluator(
        engine,
        {
            "search": [parts.search for parts in tasks.values()],
            "choose": [parts.choose for parts in tasks.values()],
            "report": [parts.report for parts in tasks.values()],
        },
        rungs=plan.rungs,
        teachers={
            name: task.member
            for name, task in zip(tasks, config.tasks, strict=True)
            if task.member is not None
        },
    )
    space = Space(
        family.n_layers,
        n_removed,
        tuple(config.family.variants),
        config.merge,
        keep=frozenset(config.keep),
        kinds=family.kinds,
        tied=family.tied,
        allowed=_expressible(family),
        givers=_givers(family),
    )
    assembly = Assembly(config, family, tasks, evaluator, space, plan)
    assembly.searcher(Objective(plan.goals, Scores()))  # its options' faults are told now
    return assembly


def _fitted(config: Config, family: Family) -> tuple[int, dict[str, TaskParts]]:
    """Layers to cut, and the tasks; the faults of both are told at once."""
    faults: list[str] = []
    n_removed, tasks = 0, {}
    try:
        n_removed = config.n_removed(family.n_layers)
    except UserError as fault:
        faults += fault.faults
    try:
        tasks = open_tasks(config, family)
    except UserError as fault:
        faults += fault.faults
    if faults:
        raise ConfigError(faults)
    return n_removed, tasks


def open_study(
    assembly: Assembly, journal: Journal, *, on_progress: Callable[[Progress], None]
) -> Study:
    """Make the study of an assembly on an open record; a new record gets its header."""
    pool = WORKERS.get(assembly.config.workers.name)(
        assembly.evaluator, **assembly.config.workers.options
    )
    header = header_of(assembly.config, assembly.family, assembly.tasks, plan=assembly.plan)
    recorded = journal.header()
    if recorded is None:
        journal.append("header", created=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **header)
    else:
        check_header(recorded, header, journal.path)
    return Study(journal, pool, assembly.searcher, plan=assembly.plan, on_progress=on_progress)


def _source(member: MemberConfig) -> MemberSource:
    return MemberSource(
        path=member.path, strength=member.strength, base=member.base, revision=member.revision
    )


def settled(config: Config, folder: Path) -> Config:
    """Replace ``dtype: auto`` by what the record in a folder was begun with, if there is one."""
    if config.family.dtype != "auto" or not (folder / RECORD).exists():
        return config
    entries = read_record(folder / RECORD)
    if not entries:
        return config
    dtype = entries[0]["config"]["family"]["dtype"]
    return config.model_copy(update={"family": config.family.model_copy(update={"dtype": dtype})})


def _plan(config: Config, family: Family, tasks: Mapping[str, TaskParts], n_removed: int) -> Plan:
    sizes = {
        part: max(getattr(parts, part).n_examples for parts in tasks.values())
        for part in ("search", "choose", "report")
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


def _givers(family: Family) -> tuple[str, ...]:
    """Variants whose embedding, norm or head is not the base's own."""

    def differs(member: str) -> bool:
        for part in ("embedding", "norm", "head"):
            ours, base = family.part(part, member), family.part(part, "base")
            if any(ours[name] is not base[name] for name in base):
                return True
        return False

    return tuple(member for member in family.members if member != "base" and differs(member))
