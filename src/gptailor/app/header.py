"""Build the header of a record: config, versions, machine, family, goals, tasks."""

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from typing import Any

import torch

from gptailor.config import Config
from gptailor.core.metrics import METRICS
from gptailor.engine.device import cpu_name, device_of
from gptailor.family import Family
from gptailor.study import Plan
from gptailor.tasks.splits import TaskSplits

__all__ = ["header_of", "model_facts", "task_digest"]

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
    config: Config, family: Family, tasks: Mapping[str, TaskSplits], *, plan: Plan
) -> dict[str, Any]:
    """The header of a study: config, versions, machine, family, goals, tasks."""
    plain = config.model_dump(mode="json")
    plain["family"]["dtype"] = str(family.dtype).removeprefix("torch.")
    libraries = (*_LIBRARIES, *_OF_SEARCHERS.get(config.search.name, ()))
    return {
        "format": "gptailor-record/1",
        "config": plain,
        "versions": {name: importlib.metadata.version(name) for name in libraries},
        "machine": {
            "cpu": cpu_name(),
            "threads": torch.get_num_threads(),
            "device": device_of(config.engine.device),
            "dtype": plain["family"]["dtype"],
            "python": platform.python_version(),
        },
        "seed": config.seed,
        "family": {
            "members": list(family.members),
            "paths": dict(family.paths),
            "n_layers": family.n_layers,
            "parameters": family.parameters,
            "layer_parameters": list(family.layer_parameters),
            "nbytes": family.nbytes,
            "notes": list(family.notes),
            "digests": dict(family.digests),
            "model": model_facts(family),
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
        "metrics": METRICS.facts(
            goal.measured(proxy=proxy) for goal in plan.goals for proxy in (False, True)
        ),
        "rungs": list(plan.rungs),
        "tasks": {
            name: {
                "search": parts.search.n_examples,
                "selection": parts.selection.n_examples,
                "test": parts.test.n_examples,
                "notes": list(parts.notes),
                "digest": task_digest(parts),
            }
            for name, parts in tasks.items()
        },
    }


def model_facts(family: Family) -> dict[str, Any]:
    """What the members' config says of how they compute: their weights do not tell it."""
    plain = family.config.to_dict()
    known = {key: plain[key] for key in sorted(plain) if key not in _PASSING}
    told: dict[str, Any] = json.loads(json.dumps(known, default=str))
    return told


def task_digest(parts: TaskSplits) -> str:
    """What tells whether a task's examples, or their division into parts, changed."""
    return f"{parts.search.digest}-{parts.selection.digest}-{parts.test.digest}"
