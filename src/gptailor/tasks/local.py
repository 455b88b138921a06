"""Local tasks: lm-eval task files of the user's own.

A file is read as plain data, so it names no code to run, and file names in it are taken from its
own folder, never from where the program was started. Knows the layout of lm-eval's YAML, but not
lm-eval.
"""

import functools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gptailor.errors import TaskError
from gptailor.registry import unknown
from gptailor.tasks.json_data import json_dataset, json_files
from gptailor.yamlfile import read_yaml

__all__ = ["is_path", "prepared", "read_task_file", "read_task_files", "references"]

_MAX_INCLUDES = 16
_SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")
_TEXTS = ("description", "target_delimiter", "fewshot_delimiter", "gen_prefix", "output_type")
_NEED_FILES = frozenset({"json", "csv", "text", "parquet"})  # else the current folder is searched


def is_path(name: str) -> bool:
    """Whether a task's name means a file, rather than one of lm-eval's own tasks."""
    return Path(name).suffix in {".yaml", ".yml"} or "/" in name or "\\" in name


def read_task_files(path: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Read a task or group, and for a group the task files around it.

    Args:
        path: A YAML file.

    Returns:
        The task's or group's name, and every config found, by name: the file itself, and where it
        is a group the other files of its folder and of the folders in it.

    Raises:
        TaskError: The file can't be used; of the files around it only those that can are taken.
    """
    config = read_task_file(path)
    name = str(config.get("group") or config.get("task"))
    found = {name: config}
    if "group" in config:
        for beside in sorted([*path.parent.glob("*.y*ml"), *path.parent.glob("*/*.y*ml")]):
            if beside.suffix not in {".yaml", ".yml"} or beside.resolve() == path.resolve():
                continue
            try:
                other = read_task_file(beside)
            except TaskError as fault:
                # told only if the group asks for it, by the name that such files usually bear
                found.setdefault(beside.stem, {"fault": str(fault)})
                continue
            found.setdefault(str(other.get("group") or other.get("task")), other)
    return name, found


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
    if not isinstance(name, str) or not name:
        key = "task" if group is None else "group"
        raise TaskError(f"{path}: {key} is {name!r}; it must be the name, a plain word")
    if group is not None and not isinstance(task, list | str):
        raise TaskError(f"{path}: group {group!r} has no tasks: 'task' must list their names")
    if isinstance(task, str) and group is not None:
        config["task"] = [task]
    return config


def references(name: str, configs: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """Which configs a task or group needs, and which names are not among them.

    Args:
        name: Where to begin.
        configs: By name, as `read_task_files` gives them.

    Returns:
        The names needed, and the names that must be lm-eval's own.

    Raises:
        TaskError: A file that is needed can't be used, or a group holds itself.
    """
    used: list[str] = []
    foreign: list[str] = []
    pending: list[tuple[str, tuple[str, ...]]] = [(name, (name,))]
    while pending:
        one, way = pending.pop(0)
        if one not in configs:
            foreign += [one] if one not in foreign else []
            continue
        if "fault" in configs[one]:
            raise TaskError(
                f"group {name!r} needs a file that can't be used: {configs[one]['fault']}"
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


def prepared(
    config: Mapping[str, Any], path: Path, *, keys: Collection[str], metrics: Collection[str]
) -> dict[str, Any]:
    """Make a config ready for lm-eval: JSON data read by us, an evaluated split named.

    Args:
        config: As `read_task_files` gives it.
        path: The file the user named, for messages.
        keys: That lm-eval knows in a task.
        metrics: That lm-eval knows.

    Raises:
        TaskError: With every fault found before lm-eval sees the config.
    """
    ready = dict(config)
    name = ready.get("task")
    if isinstance(name, list):
        ready["task"] = [
            prepared(one, path, keys=keys, metrics=metrics) if _is_inside(one) else one
            for one in name
        ]
        return ready
    faults = [
        *(unknown("key", key, sorted(keys)) for key in ready if key not in keys),
        *_metric_faults(ready.get("metric_list"), metrics),
        *_data_faults(ready),
        *(
            f"{key} is {ready[key]!r}; it must be text, in quotes"
            for key in _TEXTS
            if key in ready and not isinstance(ready[key], str)
        ),
    ]
    if faults:
        raise TaskError([f"{path}: task {name!r}: {fault}" for fault in faults])
    if json_files(ready) is not None:
        ready["custom_dataset"] = functools.partial(json_dataset, str(name))
    if ready.get("test_split") is None and ready.get("validation_split") is None:
        ready["test_split"] = ready["training_split"]  # lm-eval wants one to evaluate
    return ready


def _is_inside(member: Any) -> bool:
    """Whether a member of a group is written inside it, rather than named."""
    if not isinstance(member, Mapping):
        return False
    return "dataset_path" in member or isinstance(member.get("task"), list)


def _metric_faults(listed: Any, metrics: Collection[str]) -> list[str]:
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(
        isinstance(one, Mapping) and isinstance(one.get("metric"), str) for one in listed
    ):
        return [f"metric_list is {listed!r}; write it as [{{metric: acc}}]"]
    return [
        unknown("metric", one["metric"], sorted(metrics))
        for one in listed
        if one["metric"] not in metrics
    ]


def _data_faults(config: Mapping[str, Any]) -> list[str]:
    source, options = config.get("dataset_path"), config.get("dataset_kwargs")
    named = {role: config.get(role) for role in _SPLITS if config.get(role) is not None}
    if not isinstance(source, str):
        return [f"dataset_path is {source!r}; give 'json' for a JSONL file of your own"]
    if options is not None and not isinstance(options, Mapping):
        return [f"dataset_kwargs is {options!r}; write it as {{data_files: {{test: FILE}}}}"]
    if source in _NEED_FILES and not _are_files((options or {}).get("data_files")):
        found = (options or {}).get("data_files")
        return [f"data_files is {found!r}; write dataset_kwargs: {{data_files: {{test: FILE}}}}"]
    if not set(named) - {"fewshot_split"}:
        return ["it names no split: give test_split, validation_split or training_split"]
    files = json_files(config)
    return [
        f"{role}: " + unknown("split", split, files)
        for role, split in named.items()
        if files is not None and split not in files
    ]


def _are_files(files: Any) -> bool:
    listed = list(files.values()) if isinstance(files, Mapping) else [files]
    flat = [path for one in listed for path in (one if isinstance(one, list) else [one])]
    return bool(flat) and all(isinstance(path, str) and path for path in flat)


def _read(path: Path, above: list[Path]) -> dict[str, Any]:
    if path.resolve() in above or len(above) > _MAX_INCLUDES:
        raise TaskError(f"{path}: includes itself, by way of {above[-1]}")
    try:
        config = read_yaml(path, error=TaskError)
    except TaskError as fault:
        if "!function" in str(fault):
            raise TaskError(
                f"{path}: calls Python code with !function; a task file of your own must be plain "
                "data: write it with templates, or use a task that lm-eval ships"
            ) from None
        raise
    if not isinstance(config, dict):
        raise TaskError(f"{path}: not a task: a mapping with the key 'task' or 'group' is wanted")
    _make_absolute(config, path.resolve().parent)
    includes = config.pop("include", None) or []
    includes = [includes] if isinstance(includes, str) else includes
    if not isinstance(includes, list) or not all(isinstance(one, str) for one in includes):
        raise TaskError(f"{path}: include is {includes!r}; it must name a file, or list some")
    merged: dict[str, Any] = {}
    for include in includes:
        merged |= _read(path.parent / include, [*above, path.resolve()])
    return merged | config


def _make_absolute(config: dict[str, Any], folder: Path) -> None:
    """Resolve the data files of a config, and of the tasks written inside a group."""
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
