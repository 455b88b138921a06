"""Local tasks: lm-eval task files of the user's own.

A file is read as plain data, so it names no code to run, and file names in it are taken from its
own folder, never from where the program was started. Knows the layout of lm-eval's YAML, but not
lm-eval.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptailor.errors import TaskError
from gptailor.files.yaml import read_yaml
from gptailor.tasks.lm_eval.json_data import json_dataset, json_files
from gptailor.tasks.lm_eval.task_file import file_problems

__all__ = [
    "TaskFiles",
    "is_path",
    "prepared",
    "read_task_file",
    "read_task_files",
    "references",
    "with_file",
]

_MAX_INCLUDES = 16
# keys of a group that change no task
_OF_GROUPS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}


def is_path(name: str) -> bool:
    """Whether a task's name means a file, rather than one of lm-eval's own tasks."""
    return Path(name).suffix in {".yaml", ".yml"} or "/" in name or "\\" in name


@dataclass(frozen=True, slots=True)
class TaskFiles:
    """A task or group, and where it is a group the tasks around it.

    Args:
        name: The task's or group's own.
        configs: By name: its own, and those of the other files of its folder and of the folders in
            it. A config with the one key `error` could not be read.
        places: The file of each.
    """

    name: str
    configs: Mapping[str, Mapping[str, Any]]
    places: Mapping[str, Path]


def with_file(name: str, sentence: str) -> str:
    """Add the file to a sentence about a local task that does not name it."""
    named = is_path(name) and sentence.startswith(("task ", "group "))
    return f"{name}: {sentence}" if named else sentence


def read_task_files(path: Path) -> TaskFiles:
    """Read a task or group, and for a group the task files around it.

    Raises:
        TaskError: The file can't be used; of the files around it only those that can are taken.
    """
    config = read_task_file(path)
    name = str(config.get("group") or config.get("task"))
    found, places = {name: config}, {name: path}
    beside = (
        [*path.parent.glob("*.y*ml"), *path.parent.glob("*/*.y*ml")] if "group" in config else []
    )
    for other in sorted(beside):
        if other.suffix not in {".yaml", ".yml"} or os.path.realpath(other) == os.path.realpath(
            path
        ):
            continue
        try:
            config = read_task_file(other)
            named = str(config.get("group") or config.get("task"))
        except TaskError as error:
            # told only if the group asks for it, by the name that such files usually bear
            config, named = {"error": str(error)}, other.stem
        if named in found and named != name and "error" not in config:
            config = {"error": f"{named!r} stands in both {places[named]} and {other}"}
            found[named] = config
        found.setdefault(named, config)
        places.setdefault(named, other)
    return TaskFiles(name, found, places)


def read_task_file(path: Path) -> dict[str, Any]:
    """Read one task or group as lm-eval's config, its includes merged, its file names absolute.

    Raises:
        TaskError: The file is missing, is not YAML, holds code, or is neither task nor group.
    """
    config = _read(path.expanduser(), [])
    group, task = config.get("group"), config.get("task")
    if group is None and task is None:
        raise TaskError(f"{path}: neither a task nor a group: it has no key 'task' or 'group'")
    name = task if group is None else group
    if not isinstance(name, str) or not name or not name.isprintable():
        key = "task" if group is None else "group"
        raise TaskError(f"{path}: {key} is {name!r}; it must be the name, a plain word")
    if group is not None and not isinstance(task, list | str):
        raise TaskError(f"{path}: group {group!r} has no tasks: 'task' must list their names")
    if isinstance(task, str) and group is not None:
        config["task"] = [task]
    return config


def references(files: TaskFiles) -> tuple[list[str], list[str]]:
    """Which configs a task or group needs, and which names are not among them.

    Returns:
        The names needed, and the names that must be lm-eval's own.

    Raises:
        TaskError: A file that is needed can't be used, or a group holds itself.
    """
    name, configs = files.name, files.configs
    used: list[str] = []
    foreign: list[str] = []
    pending: list[tuple[str, tuple[str, ...]]] = [(name, (name,))]
    while pending:
        one, way = pending.pop(0)
        if one not in configs:
            foreign += [one] if one not in foreign else []
            continue
        if "error" in configs[one]:
            raise TaskError(
                f"group {name!r} needs a file that can't be used: {configs[one]['error']}"
            )
        if one in used:
            continue
        used.append(one)
        for member in _members(configs[one]):
            if member in way:
                raise TaskError(f"group {member!r} holds itself: {' > '.join((*way, member))}")
            pending.append((member, (*way, member)))
    return used, foreign


def _members(config: Mapping[str, Any]) -> list[str]:
    """The names that a group refers to; a task written inside it is no reference."""
    named: list[str] = []
    members = config.get("task")
    for member in members if isinstance(members, list) else []:
        if isinstance(member, str):
            named.append(member)
        elif isinstance(member, Mapping) and isinstance(member.get("task"), list):
            named += _members(member)
        elif isinstance(member, Mapping) and "dataset_path" not in member:
            named.append(str(member.get("group") or member.get("task")))
    return named


def prepared(config: Mapping[str, Any], path: Path, task_class: type) -> dict[str, dict[str, Any]]:
    """Make a config ready for lm-eval: JSON data read by us, an evaluated split named.

    Args:
        config: As `read_task_files` returns it.
        path: Its file, for messages.
        task_class: Makes every task of the file, and every task that the file changes.

    Returns:
        Name -> config: the file's own, and the tasks written inside a group.

    Raises:
        TaskError: With every error found before lm-eval sees the config.
    """
    name, group = config.get("task"), config.get("group")
    if not isinstance(name, list):
        return {str(name): _prepared_task(config, path, task_class)}
    _refuse(file_problems(f"{path}: group {group!r}", config, whole=False))
    inside: dict[str, dict[str, Any]] = {}
    members: list[Any] = []
    for member in name:
        if not isinstance(member, Mapping):
            members.append(member)
        elif isinstance(member.get("task"), list):
            within = prepared(
                {**member, "group": f"{group}::{member.get('group')}"}, path, task_class
            )
            *others, own = within.items()
            inside |= dict(others)
            members.append(own[1] | {"group": member.get("group")})
        elif "dataset_path" in member:
            inner = f"{group}::{member.get('task')}"  # as lm-eval calls a task written in a group
            inside[inner] = _prepared_task({**member, "task": inner}, path, task_class)
            members.append(inside[inner])
        else:
            label = f"{path}: task {member.get('group') or member.get('task')!r}"
            _refuse(file_problems(label, member, whole=False))
            members.append(_made_by(task_class, member))
    return inside | {str(group): _made_by(task_class, {**config, "task": members})}


def _prepared_task(config: Mapping[str, Any], path: Path, task_class: type) -> dict[str, Any]:
    name = config.get("task")
    _refuse(file_problems(f"{path}: task {name!r}", config, whole=True))
    ready = {**config, "class": task_class}
    for key in ("should_decontaminate", "doc_to_decontamination_query"):
        ready.pop(key, None)  # nobody asks for it here, and it would be rendered
    if json_files(ready) is not None:
        ready["custom_dataset"] = functools.partial(json_dataset, str(name))
    if ready.get("test_split") is None and ready.get("validation_split") is None:
        ready["test_split"] = ready["training_split"]  # lm-eval wants one to evaluate
    return ready


def _made_by(task_class: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Let the class make the tasks of a group, or a named task, if the config changes them."""
    return {**config, "class": task_class} if set(config) - _OF_GROUPS else dict(config)


def _refuse(problems: list[str]) -> None:
    if problems:
        raise TaskError(problems)


def _read(path: Path, above: list[Path]) -> dict[str, Any]:
    real = Path(os.path.realpath(path))  # which says nothing against links in a circle
    if real in above or len(above) > _MAX_INCLUDES:
        raise TaskError(f"{path}: includes itself, by way of {above[-1]}")
    try:
        config = read_yaml(path, error_type=TaskError)
    except TaskError as error:
        if "!function" in str(error):
            raise TaskError(
                f"{path}: calls Python code with !function; a task file of your own must be plain "
                "data: write it with templates, or use a task that lm-eval ships"
            ) from None
        raise
    if not isinstance(config, dict):
        raise TaskError(f"{path}: not a task: a mapping with the key 'task' or 'group' is wanted")
    _make_absolute(config, real.parent)
    includes = config.pop("include", None) or []
    includes = [includes] if isinstance(includes, str) else includes
    if not isinstance(includes, list) or not all(isinstance(one, str) for one in includes):
        raise TaskError(f"{path}: include is {includes!r}; it must name a file, or list some")
    merged: dict[str, Any] = {}
    for include in includes:
        merged |= _read(path.parent / include, [*above, real])
    return merged | config


def _make_absolute(config: dict[str, Any], folder: Path) -> None:
    """Resolve the data files of a config, and of the tasks written inside a group."""
    source = config.get("dataset_path")
    if isinstance(source, str) and source.startswith((".", "~")):
        config["dataset_path"] = _absolute(source, folder)
    options = config.get("dataset_kwargs")
    if isinstance(options, dict) and "data_files" in options:
        options["data_files"] = _absolute(options["data_files"], folder)
    if isinstance(options, dict) and isinstance(options.get("data_dir"), str):
        options["data_dir"] = _absolute(options["data_dir"], folder)
    members = config.get("task")
    for member in members if isinstance(members, list) else []:
        if isinstance(member, dict):
            _make_absolute(member, folder)


def _absolute(files: Any, folder: Path) -> Any:
    if isinstance(files, dict):
        return {split: _absolute(one, folder) for split, one in files.items()}
    if isinstance(files, list):
        return [_absolute(one, folder) for one in files]
    if isinstance(files, str) and "://" not in files:
        return str(folder / Path(files).expanduser())
    return files
