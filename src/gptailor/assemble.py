"""Config -> Family, tasks, Evaluator, Searcher, WorkerPool, Study: the only wiring.

Knows every part by its constructor; no part knows the config.
"""

import functools
import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gptailor.config import Config, MemberConfig
from gptailor.engine import Engine, Evaluator
from gptailor.engine.allocator import keep_freed_pages
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.errors import ConfigError, UserError
from gptailor.family import Family, MemberSource, load_family, tailored_config
from gptailor.objective import Goal, Objective
from gptailor.registry import SEARCHERS, WORKERS
from gptailor.search.searcher import Searcher
from gptailor.search.space import Space
from gptailor.study import Journal, Plan, Progress, Study
from gptailor.tailoring import Tailoring
from gptailor.tasks.harness import TaskParts, TaskRequest, load_tasks

__all__ = [
    "DTYPES",
    "Assembly",
    "assemble",
    "check_header",
    "load_members",
    "max_length_of",
    "open_study",
    "open_tasks",
    "run_folder",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_LIBRARIES = ("gptailor", "torch", "transformers", "lm-eval", "peft", "numpy", "safetensors")
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
    """Load the family of a config, in the dtype and on the device that it asks for."""
    if config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    device = _device(config)
    return load_family(
        _source(config.family.base),
        {name: _source(member) for name, member in config.family.variants.items()},
        dtype=_dtype(config, device),
        device=device,
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
    n_removed = config.n_removed(family.n_layers)
    tasks = open_tasks(config, family)
    engine = Engine(family, device=_device(config), cache_bytes=config.engine.cache_bytes)
    refuse_inexact(engine)
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
    return Assembly(config, family, tasks, evaluator, space, plan)


def open_study(
    assembly: Assembly, journal: Journal, *, on_progress: Callable[[Progress], None]
) -> Study:
    """Make the study of an assembly on an open record; a new record gets its header."""
    header = _header(assembly)
    recorded = journal.header()
    if recorded is None:
        journal.append("header", created=time.strftime("%Y-%m-%dT%H:%M:%S%z"), **header)
    else:
        check_header(recorded, header, journal.path)
    pool = WORKERS.get(assembly.config.workers.name)(
        assembly.evaluator, **assembly.config.workers.options
    )
    return Study(journal, pool, assembly.searcher, plan=assembly.plan, on_progress=on_progress)


def check_header(recorded: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with a record that was begun with something else.

    What may change between starts: the budget, the workers, and how the engine uses the machine.

    Raises:
        ConfigError: Every difference, a sentence each.
    """
    faults = []
    before, after = recorded["config"], now["config"]
    for key in ("family", "remove", "merge", "keep", "tasks", "examples", "search", "seed"):
        if before.get(key) != after.get(key):
            faults.append(
                f"{where}: {key} was {before.get(key)} when this record began and is now "
                f"{after.get(key)}; put it back, or name a new folder with --out"
            )
    for what in ("family", "tasks"):
        old, new = _digests(recorded, what), _digests(now, what)
        changed = [name for name in new if name in old and old[name] != new[name]]
        noun = "weights of member" if what == "family" else "examples of task"
        faults += [
            f"{where}: the {noun} {name!r} changed since this record began; put them back, or "
            "name a new folder with --out"
            for name in changed
        ]
    if list(recorded["rungs"]) != list(now["rungs"]):
        faults.append(
            f"{where}: budget.n_examples gave {recorded['rungs']} examples when this record began "
            f"and now gives {now['rungs']}; put it back, or name a new folder with --out"
        )
    if faults:
        raise ConfigError(faults)


def _digests(header: Mapping[str, Any], what: str) -> dict[str, str]:
    if what == "family":
        return dict(header["family"]["digests"])
    return {name: facts["digest"] for name, facts in header["tasks"].items()}


def _source(member: MemberConfig) -> MemberSource:
    return MemberSource(
        path=member.path, strength=member.strength, base=member.base, revision=member.revision
    )


def _device(config: Config) -> str:
    if config.engine.device != "auto":
        return config.engine.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _dtype(config: Config, device: str) -> torch.dtype:
    """The dtype asked for; `auto` is bfloat16 on a GPU, and on a CPU the faster of the two."""
    if config.family.dtype != "auto":
        return DTYPES[config.family.dtype]
    if device != "cpu":
        return torch.bfloat16
    return torch.bfloat16 if _seconds(torch.bfloat16) < _seconds(torch.float32) else torch.float32


def _seconds(dtype: torch.dtype) -> float:
    """Best of a few times of a product of the size of a small layer's."""
    left, right = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        times.append(time.perf_counter() - started)
    return min(times)


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


def _header(assembly: Assembly) -> dict[str, Any]:
    """What a record says before its first trial: enough to understand and to repeat it."""
    family, plan = assembly.family, assembly.plan
    config = assembly.config.model_dump(mode="json")
    config["family"]["dtype"] = str(family.dtype).removeprefix("torch.")
    return {
        "format": "gptailor-record/1",
        "config": config,
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "machine": {
            "cpu": _cpu(),
            "threads": torch.get_num_threads(),
            "device": _device(assembly.config),
            "dtype": config["family"]["dtype"],
            "python": platform.python_version(),
        },
        "seed": assembly.config.seed,
        "family": {
            "members": list(family.members),
            "sources": dict(family.sources),
            "n_layers": family.n_layers,
            "parameters": family.parameters,
            "layer_parameters": list(family.layer_parameters),
            "nbytes": family.nbytes,
            "notes": list(family.notes),
            "digests": dict(family.digests),
        },
        "remove": plan.n_removed,
        "goals": [
            {
                "task": goal.task,
                "metric": goal.metric,
                "weight": goal.weight,
                "proxy": goal.measured(proxy=True),
            }
            for goal in plan.goals
        ],
        "rungs": list(plan.rungs),
        "tasks": {
            name: {
                "search": parts.search.n_examples,
                "choose": parts.choose.n_examples,
                "report": parts.report.n_examples,
                "notes": list(parts.notes),
                "digest": f"{parts.search.digest}-{parts.choose.digest}-{parts.report.digest}",
            }
            for name, parts in assembly.tasks.items()
        },
    }


def _cpu() -> str:
    """The processor's name, as well as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
