"""What a record says before its first trial, and who may go on with it.

Enough is written down to understand a study and to repeat it; what must not change between two
starts is held against it. Knows the parts of a study; knows nothing of how they are made.
"""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gptailor.config import Config
from gptailor.errors import ConfigError
from gptailor.family import Family
from gptailor.machine import cpu_name, device_of
from gptailor.study import Plan
from gptailor.tasks.harness import TaskParts

__all__ = ["changes", "check_header", "header_of", "task_digest"]

_LIBRARIES = ("gptailor", "torch", "transformers", "lm-eval", "peft", "numpy", "safetensors")


def header_of(
    config: Config, family: Family, tasks: Mapping[str, TaskParts], *, plan: Plan
) -> dict[str, Any]:
    """The header of a study: config, versions, machine, family, goals, tasks."""
    plain = config.model_dump(mode="json")
    plain["family"]["dtype"] = str(family.dtype).removeprefix("torch.")
    return {
        "format": "gptailor-record/1",
        "config": plain,
        "versions": {name: importlib.metadata.version(name) for name in _LIBRARIES},
        "machine": {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "device": device_of(config),
            "dtype": plain["family"]["dtype"],
            "python": platform.python_version(),
        },
        "seed": config.seed,
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
                "digest": task_digest(parts),
            }
            for name, parts in tasks.items()
        },
    }


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
    if before["engine"].get("max_length") != after["engine"].get("max_length"):
        faults.append(
            f"{where}: engine.max_length was {before['engine'].get('max_length')} when this record "
            f"began and is now {after['engine'].get('max_length')}; put it back, or name a new "
            "folder with --out"
        )
    else:
        members = {name: str(digest) for name, digest in now["family"]["digests"].items()}
        tasks = {name: str(facts["digest"]) for name, facts in now["tasks"].items()}
        faults += changes(recorded, members, tasks, where=where)
    if list(recorded["rungs"]) != list(now["rungs"]):
        faults.append(
            f"{where}: budget.n_examples gave {recorded['rungs']} examples when this record began "
            f"and now gives {now['rungs']}; put it back, or name a new folder with --out"
        )
    if faults:
        raise ConfigError(faults)


def changes(
    recorded: Mapping[str, Any],
    members: Mapping[str, str],
    tasks: Mapping[str, str],
    *,
    where: Path,
) -> list[str]:
    """Name the members and tasks that are not what they were when a record began.

    Args:
        recorded: The record's header.
        members: Member to the digest of its weights now.
        tasks: Task to the digest of its examples now.
        where: The record, for the sentences.
    """
    old_tasks = {name: facts["digest"] for name, facts in recorded["tasks"].items()}
    both = (
        ("weights of member", members, recorded["family"]["digests"]),
        ("examples of task", tasks, old_tasks),
    )
    return [
        f"{where}: the {noun} {name!r} changed since this record began; put them back, or search "
        "again into a new folder"
        for noun, new, old in both
        for name in new
        if name in old and old[name] != new[name]
    ]


def task_digest(parts: TaskParts) -> str:
    """What tells whether a task's examples, or their division into parts, changed."""
    return f"{parts.search.digest}-{parts.choose.digest}-{parts.report.digest}"
