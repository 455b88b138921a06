"""Make a `Config` from a file, a mapping, a record, and from what is already in memory."""

import json
from collections.abc import Callable, Mapping
from inspect import isfunction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from gptailor.config import Config, config_of, load_config
from gptailor.core.metrics import METRICS
from gptailor.core.plugins import SEARCHERS
from gptailor.core.tailoring import BASE
from gptailor.core.validation import RECORDED
from gptailor.errors import ConfigError, RecordError
from gptailor.files.yaml import read_yaml
from gptailor.record.run_record import RunRecord

if TYPE_CHECKING:
    from gptailor.core.specs import TaskSpec
    from gptailor.family import Family
    from gptailor.tasks.splits import TaskSplits

__all__ = [
    "ConfigLike",
    "config_of_run",
    "recorded_config",
    "run_folder",
    "settings_of",
    "with_recorded_settings",
]

ConfigLike = Config | Mapping[str, Any] | str | Path


def settings_of(
    config: ConfigLike,
    *,
    searcher: str | Callable[..., Any] | None = None,
    family: "Family | None" = None,
    tasks: "Mapping[str, TaskSplits] | None" = None,
) -> Config:
    """Check a config; a searcher, a family and tasks in memory replace its sections."""
    path = Path(config) if isinstance(config, str | Path) else None
    plain: Any = config if path is None else read_yaml(path)
    if isinstance(plain, Config):
        plain = plain.model_dump()
    if isinstance(plain, Mapping):
        plain = dict(plain)
        if searcher is not None:
            plain["search"] = _section(plain, "search") | {"name": _searcher_name(searcher)}
        if family is not None:
            plain |= _in_memory(plain, family)
        if tasks is not None:
            plain["tasks"] = [_request(splits.spec) for splits in tasks.values()]
    return config_of(plain, path)


def run_folder(config: ConfigLike) -> Path:
    """The folder of a config's run when none is named: ``runs/NAME`` beside the config's file."""
    if not isinstance(config, str | Path):
        raise ConfigError("out: name the run's folder; only a config in a file has one by itself")
    path = Path(config)
    return path.resolve().parent / "runs" / path.stem


def recorded_config(record: RunRecord) -> Config:
    """The config that a run was begun with, every default filled in; imports no plug-in metric."""
    try:
        return Config.model_validate_json(json.dumps(record.header.config), context=RECORDED)
    except ValidationError:
        raise RecordError(
            f"{record.folder}: its config is not one of this version; use the version that searched"
        ) from None


def config_of_run(record: RunRecord | None, path: Path | None, verb: str) -> Config:
    """The config in a file, else that of a run; for the command `verb`.

    Raises:
        ConfigError: A metric of the user's own is named by the record alone, which imports nothing.
    """
    config = load_config(path or Path()) if record is None or path else recorded_config(record)
    metrics = [task.metric for task in config.tasks]
    unloaded = [name for name in metrics if name.partition(",")[0] not in METRICS.names]
    if unloaded:
        raise ConfigError(
            f"{verb}: the metric {unloaded[0]!r} is imported only where tailor.yaml names it; "
            "add --config tailor.yaml"
        )
    return config


def with_recorded_settings(config: Config, record: RunRecord) -> Config:
    """Take what ``dtype: auto`` and a target were, and the order of the variants, from a record.

    In a config the variants have no order, but a searcher's draws depend on one.
    """
    recorded, family = record.header.config["family"], config.family
    update: dict[str, Any] = {"dtype": recorded["dtype"]} if family.dtype == "auto" else {}
    order = recorded.get("variants")
    if isinstance(order, Mapping) and set(order) == set(family.variants):
        update["variants"] = {name: family.variants[name] for name in order}
    remove, target = config.remove, None if config.target is None else config.target.model_dump()
    if target is not None and target == record.header.config.get("target"):
        remove = record.header.config["remove"]
    family = family.model_copy(update=update)
    return config.model_copy(update={"family": family, "remove": remove})


def _searcher_name(searcher: str | Callable[..., Any]) -> str:
    if isinstance(searcher, str):
        return searcher
    if not isfunction(searcher):
        raise ConfigError(f"searcher: must be a name or a generator function, not {searcher!r}")
    return SEARCHERS.add(f"{searcher.__module__}:{searcher.__qualname__}", searcher)


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
    if asked.setdefault("tokenizer", family.tokenizer_from) != family.tokenizer_from:
        raise ConfigError(
            f"family.tokenizer: is {asked['tokenizer']}, but the family in memory was loaded with "
            f"the tokenizer of {family.tokenizer_from}; load it with tokenizer_from=..."
        )
    here = str(family.states[BASE][family.layout.embedding].device).removesuffix(":0")
    engine = {"device": "auto"} | _section(plain, "engine")
    if engine["device"] not in ("auto", here):
        raise ConfigError(
            f"engine.device: is {engine['device']}, but the models in memory are on {here}; "
            "leave it out, or move the models"
        )
    return {"family": asked, "engine": engine | {"device": here}}


def _request(spec: "TaskSpec") -> dict[str, Any]:
    """The entry of the section ``tasks`` that asks for a task which is already loaded."""
    request = spec.model_dump()
    for key in ("name", "test_task"):
        if request[key] is not None and Path(request[key]).exists():
            request[key] = str(Path(request[key]).resolve())
    return request
