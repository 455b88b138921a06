"""Refuse to resume a study with other settings than its record began with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptailor.core.plugins import SEARCHERS
from gptailor.errors import ConfigError
from gptailor.record.entries import Header

__all__ = ["changes", "check_header"]

_KEPT = ("family", "remove", "merge", "keep", "tasks", "examples", "search", "seed")
# an older record was begun without them
_ADDED = (
    "repair",
    "calibration",
    "chat",
    "worst_domain",
    "guard",
    "family.tokenizer",
    "calibration.baseline_tokens",
    "target",
)
_ABSENT = "absent"
_METRIC_FACTS = {"higher_is_better", "transform"}


def check_header(recorded: Header, now: Header, where: Path) -> None:
    """Refuse to go on with a record that was begun with something else.

    What may change between starts: the budget, the workers, and how the engine uses the machine.
    """
    before, after = _in_full(recorded.config, now.config)
    differ = {
        key: [
            found
            for found in _differences(before.get(key, _ABSENT), after.get(key, _ABSENT), key)
            if found[0] not in _ADDED or found[1] != _ABSENT
        ]
        for key in (*_KEPT, *_ADDED, "engine")
    }
    differ["engine"] = [found for found in differ["engine"] if found[0] == "engine.max_length"]
    # weights and examples differ anyway where the config asks for others
    explained = any(differ[k] for k in ("family", "tasks", "examples", "seed", "engine"))
    rungs = [list(header.rungs) for header in (recorded, now)]
    if explained:
        rungs = [config["budget"]["n_examples"] for config in (before, after)]
    if rungs[0] != rungs[1]:
        differ["budget"] = [("budget.n_examples", rungs[0], rungs[1])]
    problems = [
        f"{where}: {path} was {_format(old)} when this record began and is now {_format(new)}; put "
        "it back, or name a new folder with --out"
        for found in differ.values()
        for path, old, new in found
    ]
    members, model = now.family.digests, now.family.model or {}
    if differ["family"]:
        members, model = {}, recorded.family.model or {}
    tasks = {} if explained else {name: task.digest for name, task in now.tasks.items()}
    other_texts = differ.get("repair") or differ.get("calibration")
    rows = recorded.calibration if other_texts else now.calibration
    problems += changes(recorded, members, model, tasks, rows, where=where)
    problems += [
        f"{where}: the metric {name!r} was another when this record began (which way is better, or "
        "its transform); put it back, or name a new folder with --out"
        for name, facts in now.metrics.items()
        if recorded.metrics.get(name, facts).model_dump(include=_METRIC_FACTS)
        != facts.model_dump(include=_METRIC_FACTS)
    ]
    problems += [
        f"{where}: {name} was {version} when this record began and is now "
        f"{now.versions.get(name, 'not installed')}; install {name}=={version}, or name a new "
        "folder with --out"
        for name, version in recorded.versions.items()
        if version != now.versions.get(name)
    ]
    if problems:
        raise ConfigError(problems)


def changes(
    recorded: Header,
    members: Mapping[str, str],
    model: Mapping[str, Any],
    tasks: Mapping[str, str],
    calibration: str | None,
    *,
    where: Path,
) -> list[str]:
    """Name the members, tasks and calibration texts that changed since a record began.

    `members`, `tasks` and `calibration` are digests now; `model` is what the members' config.json
    says now, which an older header does not have. Rows of calibration that no texts were named for
    have no digest in a record.
    """
    before = recorded.family.model
    old_tasks = {name: facts.digest for name, facts in recorded.tasks.items()}
    both = (
        ("weights of member", members, recorded.family.digests),
        ("examples of task", tasks, old_tasks),
    )
    problems = [
        f"{where}: the {noun} {name!r} changed since this record began; put them back, or search "
        "again into a new folder"
        for noun, new, old in both
        for name in new
        if name in old and old[name] != new[name]
    ]
    if before is not None:
        problems += [
            f"{where}: {path} of the members' config.json was {_format(old)} when this record "
            f"began and is now {_format(new)}; put it back, or search again into a new folder"
            for path, old, new in _differences(before, model, "")
        ]
    if None not in (recorded.calibration, calibration) and recorded.calibration != calibration:
        problems.append(
            f"{where}: the calibration texts changed since this record began; put them back, or "
            "search again into a new folder"
        )
    return problems


def _in_full(*configs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Configs with the searcher's default options filled in, where both have the same searcher."""
    plugins = [config.get("search") for config in configs]
    names = {str(plugin.get("name")) for plugin in plugins if isinstance(plugin, Mapping)}
    if len(names) != 1 or not names <= set(SEARCHERS.names):
        return list(configs)
    defaults = SEARCHERS.defaults(names.pop())
    return [
        {**config, "search": {**plugin, "options": defaults | plugin.get("options", {})}}
        if isinstance(plugin, Mapping) and isinstance(plugin.get("options", {}), Mapping)
        else config
        for config, plugin in zip(configs, plugins, strict=True)
    ]


def _differences(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The smallest differences: the dotted key, the old value and the new one."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
            yield from _differences(old, new, f"{path}.{key}" if path else key)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, f"{path}[{index}]")
    elif before != after:
        yield path, before, after


def _format(item: Any) -> str:
    """Format a value of a config for a sentence."""
    if isinstance(item, Mapping) and ("name" in item or "path" in item):  # a task, a member
        return str(item.get("name", item.get("path")))
    if isinstance(item, list):
        return f"[{', '.join(map(_format, item))}]"
    return str(item)
