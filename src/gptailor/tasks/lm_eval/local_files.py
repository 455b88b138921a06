"""Read lm-eval task files of the user's own.

A file is read as plain data, so it names no code to run. File names in it count from its own
folder, never from where the program was started.
"""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptailor.errors import TaskError
from gptailor.files.yaml import read_yaml
from gptailor.tasks.lm_eval.json_data import json_dataset, json_files
from gptailor.tasks.lm_eval.task_file import check_task_file

__all__ = ["LocalTasks", "is_path", "read_local_tasks", "read_task_file"]

_MAX_INCLUDES = 16
# keys of a group that change no task
_OF_GROUPS = {"group", "group_alias", "task", "aggregate_metric_list", "metadata", "tag"}

_OF_TASKS = {"dataset_path", "doc_to_text", "doc_to_target", "output_type"}  # of no mere group


@dataclass(slots=True)
class LocalTasks:
    """A local task or group, with everything that it refers to."""

    name: str
    # by name, ready for lm-eval: its own, of the files it names, of tasks written inside a group
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    places: dict[str, Path] = field(default_factory=dict)  # the file of each
    foreign: list[str] = field(default_factory=list)  # names that no file has: lm-eval's own


@dataclass(frozen=True, slots=True)
class _File:
    """A task file that was read, or why it can't be used."""

    path: Path
    config: Mapping[str, Any]
    error: str | None = None


def is_path(name: str) -> bool:
    """Whether a task's name means a file, rather than one of lm-eval's own tasks."""
    return Path(name).suffix in {".yaml", ".yml", ".jsonl"} or "/" in name or "\\" in name


def read_local_tasks(path: Path, task_class: type) -> LocalTasks:
    """Read a task or group, and of the files around a group those that it names.

    `task_class` makes every task of a file, and every task that a file changes.
    """
    name, files = _around(path)
    tasks = LocalTasks(name)
    problems: list[str] = []

    def add(one: str, above: tuple[str, ...]) -> None:
        if one in above:
            raise TaskError(f"group {one!r} holds itself: {' > '.join((*above, one))}")
        if one not in files:
            tasks.foreign.append(one)
        elif files[one].error is not None:
            raise TaskError(f"group {name!r} needs a file that can't be used: {files[one].error}")
        elif one not in tasks.places:
            tasks.places[one] = files[one].path
            try:
                configs, members = _prepared(files[one].config, files[one].path, task_class)
            except TaskError as error:
                problems.extend(error.problems)
                return
            tasks.configs |= configs
            for member in _without_tags(members, files):
                add(member, (*above, one))

    add(name, ())
    if problems:
        raise TaskError(problems)
    return tasks


def _without_tags(names: list[str], files: Mapping[str, _File]) -> list[str]:
    """What a group names, with the tasks of a tag in its place; lm-eval finds them by the tag."""
    found = []
    for name in names:
        tagged = [one for one, file in files.items() if name in _listed(file.config.get("tag"))]
        found += [name] if name in files or not tagged else tagged
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _around(path: Path) -> tuple[str, dict[str, _File]]:
    """The name of a task or group, and by name its file and, for a group, those around it."""
    config = read_task_file(path)
    name = str(config.get("group") or config.get("task"))
    files = {name: _File(path, config)}
    beside = [*path.parent.glob("*.y*ml"), *path.parent.glob("*/*.y*ml")]
    for other in sorted(beside) if "group" in config else []:
        if other.suffix not in {".yaml", ".yml"} or other.resolve() == path.resolve():
            continue
        try:
            config = read_task_file(other)
            named, error = str(config.get("group") or config.get("task")), None
        except TaskError as unusable:
            # matters only if the group names it, by the name that such files usually have
            config, named, error = {}, other.stem, str(unusable)
        if named in files and named != name and error is None:
            both = f"{named!r} is in both {files[named].path} and {other}"
            files[named] = _File(other, {}, both)
        files.setdefault(named, _File(other, config, error))
    return name, files


def read_task_file(path: Path) -> dict[str, Any]:
    """Read one task or group as lm-eval's config, its includes merged, its file names absolute."""
    if path.suffix == ".jsonl":
        return _of_texts(path.expanduser())
    config = _read(path.expanduser(), [])
    group, task = config.get("group"), config.get("task")
    if group is None and task is None:
        raise TaskError(f"{path}: neither a task nor a group: it has no key 'task' or 'group'")
    if isinstance(task, str) and group is not None and _OF_TASKS & config.keys():
        raise TaskError(
            f"{path}: the file of task {task!r} names a group ({group!r}), which lm-eval no longer "
            "reads there; call that key 'tag'"
        )
    name = task if group is None else group
    if not isinstance(name, str) or not name or not name.isprintable():
        key = "task" if group is None else "group"
        raise TaskError(f"{path}: {key} is {name!r}; it must be the name, a plain word")
    if group is not None and not isinstance(task, list | str):
        raise TaskError(f"{path}: group {group!r} has no tasks: 'task' must list their names")
    if isinstance(task, str) and group is not None:
        config["task"] = [task]
    return config


def _of_texts(path: Path) -> dict[str, Any]:
    """A task over a file of texts: JSON lines with the key ``text``."""
    rows = json_dataset(path.stem, data_files={"test": str(path)})["test"]
    texts = rows.features.get("text")
    if texts is None or texts.dtype != "string":
        raise TaskError(
            f"{path}: its lines have no key 'text' with a text; a task over other data is named by "
            "its YAML file"
        )
    return {
        "task": path.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path.absolute())}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    }


def _prepared(
    config: Mapping[str, Any], path: Path, task_class: type
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Check a config and make it ready for lm-eval.

    Returns name -> config (the tasks written inside a group, and last the file's own), and the
    names that a group refers to.
    """
    name, group = config.get("task"), config.get("group")
    if not isinstance(name, list):
        return {str(name): _prepared_task(config, path, task_class)}, []
    check_task_file(f"{path}: group {group!r}", config, whole=False)
    inside: dict[str, dict[str, Any]] = {}
    members: list[Any] = []
    named: list[str] = []
    for member in name:
        if not isinstance(member, Mapping):
            named.append(str(member))
            members.append(member)
        elif isinstance(member.get("task"), list):
            deeper = {**member, "group": f"{group}::{member.get('group')}"}
            configs, names = _prepared(deeper, path, task_class)
            named += names
            members.append(configs.popitem()[1] | {"group": member.get("group")})
            inside |= configs
        elif "dataset_path" in member:
            inner = f"{group}::{member.get('task')}"  # as lm-eval calls a task written in a group
            inside[inner] = _prepared_task({**member, "task": inner}, path, task_class)
            members.append(inside[inner])
        else:
            named.append(str(member.get("group") or member.get("task")))
            check_task_file(f"{path}: task {named[-1]!r}", member, whole=False)
            members.append(_made_by(task_class, member))
    return inside | {str(group): _made_by(task_class, {**config, "task": members})}, named


def _prepared_task(config: Mapping[str, Any], path: Path, task_class: type) -> dict[str, Any]:
    """Check a task and make it ready: JSON data read by us, an evaluated split named."""
    name = config.get("task")
    check_task_file(f"{path}: task {name!r}", config, whole=True)
    ready = {**config, "class": task_class}
    for key in ("should_decontaminate", "doc_to_decontamination_query"):
        ready.pop(key, None)  # nobody asks for it here, and it would be rendered
    if json_files(ready.get("dataset_path"), ready.get("dataset_kwargs")) is not None:
        ready["custom_dataset"] = functools.partial(json_dataset, str(name))
    if ready.get("test_split") is None and ready.get("validation_split") is None:
        ready["test_split"] = ready["training_split"]  # lm-eval wants one to evaluate
    return ready


def _made_by(task_class: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Let the class make the tasks of a group, or a named task, if the config changes them."""
    return {**config, "class": task_class} if set(config) - _OF_GROUPS else dict(config)


def _read(path: Path, above: list[Path]) -> dict[str, Any]:
    real = Path(os.path.realpath(path))  # raises nothing for links in a circle
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
    for key in ("data_files", "data_dir"):
        if isinstance(options, dict) and key in options:
            options[key] = _absolute(options[key], folder)
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
