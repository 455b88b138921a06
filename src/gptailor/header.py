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

__all__ = ["check_header", "header_of"]

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
                "digest": f"{parts.search.digest}-{parts.choose.digest}-{parts.report.digest}",
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
