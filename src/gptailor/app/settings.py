"""Make a `Config` from a file, a mapping or a `Config`, and from what is already in memory."""

from collections.abc import Callable, Mapping
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptailor.config import Config, config_of
from gptailor.core.plugins import SEARCHERS
from gptailor.core.tailoring import BASE
from gptailor.errors import ConfigError
from gptailor.files.yaml import read_yaml

if TYPE_CHECKING:
    from gptailor.family import Family
    from gptailor.tasks.splits import TaskSplits

__all__ = ["ConfigLike", "run_folder", "settings_of"]

ConfigLike = Config | Mapping[str, Any] | str | Path


def settings_of(
    config: ConfigLike,
    *,
    searcher: str | Callable[..., Any] | None = None,
    family: "Family | None" = None,
    tasks: "Mapping[str, TaskSplits] | None" = None,
) -> Config:
    """Check a config; a searcher, a family and tasks in memory replace its sections.

    Raises:
        ConfigError: Every problem, a sentence each.
    """
    path = Path(config) if isinstance(config, str | Path) else None
    plain: Any = config if path is None else read_yaml(path)
    if isinstance(plain, Config):
        plain = plain.model_dump()
    if isinstance(plain, Mapping):
        plain = dict(plain)
        if searcher is not None:
            if not isinstance(searcher, str):
                if not isfunction(searcher):
                    raise ConfigError(
                        f"searcher: must be a name or a generator function, not {searcher!r}"
                    )
                place = f"{searcher.__module__}:{searcher.__qualname__}"
                searcher = SEARCHERS.add(place, searcher)
            plain["search"] = _section(plain, "search") | {"name": searcher}
        if family is not None:
            plain |= _in_memory(plain, family)
        if tasks is not None:
            plain["tasks"] = _requests(tasks)
    return config_of(plain, path)


def run_folder(config: ConfigLike) -> Path:
    """The folder of a config's run when none is named: ``runs/NAME`` beside the config.

    Raises:
        ConfigError: The config is not a file.
    """
    if not isinstance(config, str | Path):
        raise ConfigError("out: name the run's folder; only a config in a file has one by itself")
    path = Path(config)
    return path.resolve().parent / "runs" / path.stem


def _section(plain: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = plain.get(key)
    return dict(found) if isinstance(found, Mapping) else {}


def _in_memory(plain: Mapping[str, Any], family: "Family") -> dict[str, Any]:
    """The sections ``family`` and ``engine`` of a config whose members are in memory."""
    from gptailor.family.loading import MEMORY  # a family is there, so the libraries are loaded

    asked = _section(plain, "family")
    variants = [name for name in family.members if name != BASE]
    if "variants" in asked and sorted(asked["variants"]) != sorted(variants):
        raise ConfigError(
            f"family.variants: the config names {', '.join(asked['variants'])}, but the family in "
            f"memory has {', '.join(variants) or 'none'}; leave the section 'family' out"
        )
    if "base" not in asked or family.paths[BASE].startswith(MEMORY):
        asked = {"base": f"{MEMORY}{BASE}", "variants": {n: f"{MEMORY}{n}" for n in variants}}
    here = str(family.states[BASE][family.layout.embedding].device).removesuffix(":0")
    engine = {"device": "auto"} | _section(plain, "engine")
    if engine["device"] not in ("auto", here):
        raise ConfigError(
            f"engine.device: is {engine['device']}, but the models in memory are on {here}; "
            "leave it out, or move the models"
        )
    return {"family": asked, "engine": engine | {"device": here}}


def _requests(tasks: "Mapping[str, TaskSplits]") -> list[dict[str, Any]]:
    """The section ``tasks`` that asks for tasks which are already loaded."""
    requests = [splits.spec.model_dump() for splits in tasks.values()]
    for request in requests:
        for key in ("name", "test_task"):
            if request[key] is not None and Path(request[key]).exists():
                request[key] = str(Path(request[key]).resolve())
    return requests
