"""Build the header of a record: config, versions, machine, family, goals, tasks."""

import dataclasses
import importlib.metadata
import json
import platform
import time
from collections.abc import Mapping
from typing import Any

import torch

from gptailor.config import Config
from gptailor.core.merge_spec import merge_spec
from gptailor.core.metrics import METRICS
from gptailor.core.plugins import MERGE_METHODS
from gptailor.engine.device import cpu_name, device_of
from gptailor.errors import ConfigError
from gptailor.family import Family
from gptailor.record.compatibility import changes
from gptailor.record.entries import FamilyFacts, Header, MetricFacts, TaskFacts
from gptailor.record.run_record import RunRecord
from gptailor.study import Plan
from gptailor.tasks.calibration import Calibration
from gptailor.tasks.splits import TaskSplits

__all__ = ["header_of", "refuse_changes", "task_digest"]

_LIBRARIES = ("gptailor", "torch", "transformers", "lm-eval", "peft", "numpy", "safetensors")
_OF_SEARCHERS = {"smac": ("smac", "ConfigSpace"), "optuna": ("optuna",)}
# of a model's config: where it was read and with what, and what changes no score
_PASSING = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)


def header_of(
    config: Config,
    family: Family,
    tasks: Mapping[str, TaskSplits],
    *,
    plan: Plan,
    calibration: str | None = None,
    target: str | None = None,
) -> Header:
    """Describe a study that begins now; the config's dtype is not ``auto``."""
    libraries = (*_LIBRARIES, *_OF_SEARCHERS.get(config.search.name, ()))
    return Header(
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        config=config.model_dump(mode="json"),
        versions={name: importlib.metadata.version(name) for name in libraries},
        machine={
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "device": device_of(config.engine.device),
            "dtype": config.family.dtype,
            "python": platform.python_version(),
        },
        seed=config.seed,
        family=FamilyFacts(
            members=family.members,
            paths=dict(family.paths),
            n_layers=family.n_layers,
            parameters=family.parameters,
            layer_parameters=family.layer_parameters,
            nbytes=family.nbytes,
            notes=family.notes,
            digests=dict(family.digests),
            model=_model_facts(family),
        ),
        n_kept=plan.n_kept,
        goals=tuple(dataclasses.replace(g, proxy=g.measured(proxy=True)) for g in plan.goals),
        metrics={
            name: MetricFacts(**facts)
            for name, facts in METRICS.facts(
                goal.measured(proxy=proxy) for goal in plan.goals for proxy in (False, True)
            ).items()
        },
        merge_methods={
            name: merge_spec(name).declaration()
            for name in config.merge
            if name not in MERGE_METHODS.builtin
        },
        rungs=plan.rungs,
        tasks={
            name: TaskFacts(
                **{split: task.n_examples for split, task in splits.by_name.items()},
                notes=splits.notes,
                digest=task_digest(splits),
                chance={split: task.chance for split, task in splits.by_name.items()},
            )
            for name, splits in tasks.items()
        },
        calibration=calibration,
        target=target,
    )


def refuse_changes(
    record: RunRecord,
    family: Family,
    tasks: Mapping[str, TaskSplits] | None = None,
    calibration: Calibration | None = None,
) -> None:
    """Refuse members, tasks and calibration rows that are not those a run was begun with."""
    digests = {name: task_digest(splits) for name, splits in (tasks or {}).items()}
    facts, where = _model_facts(family), record.folder
    rows = None if calibration is None else calibration.digest
    if problems := changes(record.header, family.digests, facts, digests, rows, where=where):
        raise ConfigError(problems)


def _model_facts(family: Family) -> dict[str, Any]:
    """The keys of the members' config that say how they compute, as JSON."""
    plain = family.config.to_dict()
    known = {key: plain[key] for key in sorted(plain) if key not in _PASSING}
    facts: dict[str, Any] = json.loads(json.dumps(known, default=str))
    return facts


def task_digest(splits: TaskSplits) -> str:
    """A digest of a task's examples and of their division into splits."""
    return "-".join(task.digest for task in splits.by_name.values())
