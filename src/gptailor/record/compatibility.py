"""Whether a record can go on: its header compared with that of the study as it is now."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gptailor.core.plugins import SEARCHERS
from gptailor.errors import ConfigError, RecordError

__all__ = ["changed_model", "changes", "check_header", "refuse_unusable"]

_KEPT = ("family", "remove", "merge", "keep", "tasks", "examples", "search", "seed")
_ABSENT = "absent"
_NEEDED: Mapping[str, type] = {
    "config.family.dtype": str,
    "config.engine": Mapping,
    "versions": Mapping,
    "family.digests": Mapping,
    "tasks": Mapping,
    "rungs": list,
}


_METRIC_FACTS = ("higher_is_better", "transform")


def check_header(recorded: Mapping[str, Any], now: Mapping[str, Any], where: Path) -> None:
    """Refuse to go on with a record that was begun with something else.

    What may change between starts: the budget, the workers, and how the engine uses the machine.

    Raises:
        ConfigError: Every difference, a sentence each.
        RecordError: The recorded header lacks what must be compared.
    """
    refuse_unusable(recorded, where)
    before, after = _in_full(recorded["config"], now["config"])
    differ = {
        key: list(_differences(before.get(key, _ABSENT), after.get(key, _ABSENT), key))
        for key in (*_KEPT, "engine")
    }
    differ["engine"] = [found for found in differ["engine"] if found[0] == "engine.max_length"]
    problems = [
        f"{where}: {place} was {_told(old)} when this record began and is now {_told(new)}; put it "
        "back, or name a new folder with --out"
        for found in differ.values()
        for place, old, new in found
    ]
    # weights and examples differ anyway where the config asks for others
    explained = bool(differ["family"])
    members = {} if explained else dict(now["family"]["digests"])
    explained = explained or any(differ[k] for k in ("tasks", "examples", "seed", "engine"))
    tasks = {} if explained else {name: task["digest"] for name, task in now["tasks"].items()}
    problems += changes(recorded, members, tasks, where=where)
    if not differ["family"]:
        problems += changed_model(recorded, now["family"].get("model", {}), where)
    if not explained and list(recorded["rungs"]) != list(now["rungs"]):
        problems.append(
            f"{where}: budget.n_examples gave {recorded['rungs']} examples when this record began "
            f"and now gives {now['rungs']}; put it back, or name a new folder with --out"
        )
    elif explained and before["budget"]["n_examples"] != after["budget"]["n_examples"]:
        problems.append(
            f"{where}: budget.n_examples was {before['budget']['n_examples']} when this record "
            f"began and is now {after['budget']['n_examples']}; put it back, or name a new folder "
            "with --out"
        )
    problems += _changed_metrics(recorded, now, where)
    problems += _changed_libraries(recorded["versions"], now["versions"], where)
    if problems:
        raise ConfigError(problems)


def _changed_metrics(
    recorded: Mapping[str, Any], now: Mapping[str, Any], where: Path
) -> Iterator[str]:
    """Name the plug-in metrics whose facts are not what they were."""
    before = recorded.get("metrics", {})
    for name, facts in now.get("metrics", {}).items():
        if any(before.get(name, facts)[key] != facts[key] for key in _METRIC_FACTS):
            yield (
                f"{where}: the metric {name!r} was another when this record began (which way is "
                "better, or its transform); put it back, or name a new folder with --out"
            )


def refuse_unusable(recorded: Mapping[str, Any], where: Path) -> None:
    """Refuse a header that lacks what a study needs to go on.

    Raises:
        RecordError: A key is missing or is not of its kind.
    """
    for place, kind in _NEEDED.items():
        item: Any = recorded
        for step in place.split("."):
            item = item.get(step) if isinstance(item, Mapping) else None
        if not isinstance(item, kind):
            raise RecordError(
                f"{where}, line 1: the header lacks {place!r}; restore the file from a copy, or "
                "name a new folder"
            )
    for name, task in recorded["tasks"].items():
        if not isinstance(task, Mapping) or not isinstance(task.get("digest"), str):
            raise RecordError(
                f"{where}, line 1: the header lacks the digest of task {name!r}; restore the file "
                "from a copy, or name a new folder"
            )


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


def changed_model(recorded: Mapping[str, Any], model: Mapping[str, Any], where: Path) -> list[str]:
    """Name what the members' config.json says otherwise than when a record began.

    Args:
        recorded: The record's header; an older one does not tell.
        model: What it says now, see `model_facts`.
        where: The record, for the sentences.
    """
    before = recorded["family"].get("model")
    if not isinstance(before, Mapping):
        return []
    return [
        f"{where}: {place} of the members' config.json was {_told(old)} when this record began and "
        f"is now {_told(new)}; put it back, or search again into a new folder"
        for key in dict.fromkeys((*before, *model))
        for place, old, new in _differences(before.get(key, _ABSENT), model.get(key, _ABSENT), key)
    ]


def _in_full(*configs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Configs with the same searcher, with what it takes for the options that are left out."""
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


def _differences(before: Any, after: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """The smallest parts that differ: the dotted place, what was there and what is."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys((*before, *after)):
            old, new = before.get(key, _ABSENT), after.get(key, _ABSENT)
            yield from _differences(old, new, f"{place}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _differences(old, new, f"{place}[{index}]")
    elif before != after:
        yield place, before, after


def _told(item: Any) -> str:
    """A value of a config in a sentence."""
    if isinstance(item, Mapping) and ("name" in item or "path" in item):  # a task, a member
        return str(item.get("name", item.get("path")))
    if isinstance(item, list):
        return f"[{', '.join(map(_told, item))}]"
    return str(item)


def _changed_libraries(
    before: Mapping[str, Any], after: Mapping[str, Any], where: Path
) -> list[str]:
    """Name the libraries of another version: scores of two would stand in one record."""
    return [
        f"{where}: {name} was {before[name]} when this record began and is now "
        f"{after.get(name, 'not installed')}; install {name}=={before[name]}, or name a new folder "
        "with --out"
        for name in before
        if before[name] != after.get(name)
    ]
