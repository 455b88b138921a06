"""Make the config of a run of baselines."""

from collections.abc import Mapping
from typing import Any

from gptailor.config import Config
from gptailor.config.sections import PluginConfig
from gptailor.core.plugins import BASELINES
from gptailor.core.specs import BASELINE
from gptailor.core.tailoring import BASE
from gptailor.errors import ConfigError, unknown

__all__ = ["ALL", "baseline_settings"]

ALL = "all"


def baseline_settings(
    config: Config,
    names: str,
    *,
    member: str = BASE,
    seed: int | None = None,
    options: Mapping[str, Mapping[str, object]] | None = None,
) -> Config:
    """Make the config of a run of baselines from that of a search.

    Args:
        config: Of a search; its searcher and budget are replaced.
        names: Of baselines, with commas between; or ``all``.
        member: Whose layers are cut.
        seed: Of the baselines' draws; the config's if absent.
        options: Name of a baseline to options of it that are not the defaults.

    Raises:
        ConfigError: Every problem, a sentence each.
    """
    chosen = list(BASELINES.names) if names == ALL else list(dict.fromkeys(names.split(",")))
    options, members = options or {}, [BASE, *config.family.variants]
    problems = [] if member in members else [unknown("member", member, members)]
    for name in chosen:
        problems += BASELINES.problems(name, options.get(name, {}), f"--option {name}")
    problems += [
        f"--option {name}.{next(iter(given))}: the baseline {name} is not asked for; name it, or "
        "leave the option out"
        for name, given in options.items()
        if given and name not in chosen
    ]
    if problems:
        raise ConfigError(problems)
    search: dict[str, Any] = {"names": chosen, "member": member}
    search |= {"seed": config.seed if seed is None else seed}
    search |= {"options": {name: dict(given) for name, given in options.items()}}
    budget = {"max_trials": len(chosen), "finalists": len(chosen)}
    unlimited = {"layer_tokens": None, "timeout_s": None}
    return config.model_copy(
        update={
            "search": PluginConfig(name=BASELINE, options=search),
            "budget": config.budget.model_copy(update=budget | unlimited),
        }
    )
