"""Local tasks: lm-eval task files of the user's own, and the JSON data beside them.

A file is read as plain data: it can't run code, and file names in it are taken from its own folder,
never from where the program was started. The data are read anew each time; nothing is cached.
Knows the layout of lm-eval's YAML, but not lm-eval.
"""

import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from gptailor.errors import TaskError
from gptailor.registry import unknown
from gptailor.yamlfile import read_yaml

__all__ = [
    "is_path",
    "json_files",
    "prepared",
    "read_json_split",
    "read_task_file",
    "read_task_files",
    "references",
]

_MAX_INCLUDES = 16


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


def read_json_split(paths: list[str], task: str) -> dict[str, list[Any]]:
    """Read JSON lines, or a JSON list of objects, as columns.

    Args:
        paths: One or more files that make up one split.
        task: The task's name, for messages.

    Returns:
        Column name to values; a key that an object lacks is None.

    Raises:
        TaskError: A file is missing, empty or broken; names the file and the line.
    """
    rows: list[dict[str, Any]] = []
    for path in paths:
        rows += _rows(Path(path), task)
    if not rows:
        raise TaskError(f"task {task!r}: {', '.join(paths)}: holds no examples")
    columns = dict.fromkeys(key for row in rows for key in row)
    return {column: [row.get(column) for row in rows] for column in columns}


def prepared(config: Mapping[str, Any], path: Path, known_keys: Collection[str]) -> dict[str, Any]:
    """Make a config ready for lm-eval: JSON data read by us, an evaluated split named.

    Args:
        config: As `read_task_files` gives it.
        path: The file the user named, for messages.
        known_keys: The keys that lm-eval knows in a task.

    Raises:
        TaskError: A key is unknown, or no split is named.
    """
    ready = dict(config)
    name = ready.get("task")
    if isinstance(name, list):
        ready["task"] = [
            prepared(one, path, known_keys)
            if isinstance(one, Mapping) and ("dataset_path" in one or "group" in one)
            else one
            for one in name
        ]
        return ready
    for key in ready:
        if key not in known_keys:
            raise TaskError(f"{path}: task {name!r}: " + unknown("key", key, sorted(known_keys)))
    if json_files(ready) is not None:
        ready["custom_dataset"] = functools.partial(_json_dataset, str(name))
    splits = [ready.get(f"{role}_split") for role in ("test", "validation", "training")]
    if splits == [None, None, None]:
        raise TaskError(
            f"{path}: task {name!r} names no split: give test_split, validation_split or "
            "training_split"
        )
    if splits[:2] == [None, None]:
        ready["test_split"] = splits[2]  # lm-eval wants one to evaluate
    return ready


def json_files(config: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """The local JSON files of a config by split, or None if its data come from elsewhere."""
    options = config.get("dataset_kwargs")
    if config.get("dataset_path") != "json" or not isinstance(options, Mapping):
        return None
    if set(options) - {"data_files", "trust_remote_code"}:
        return None
    files = options.get("data_files")
    splits = files if isinstance(files, Mapping) else {"train": files}
    found = {str(k): [v] if isinstance(v, str) else list(v or []) for k, v in splits.items()}
    flat = [path for paths in found.values() for path in paths]
    if not flat or not all(isinstance(path, str) and _is_plain_file(path) for path in flat):
        return None
    return found


def _json_dataset(task: str, data_files: Any = None, **_: Any) -> dict[str, Any]:
    """What lm-eval calls for the data of a local task: one dataset a split, read now."""
    from datasets import Dataset

    config = {"dataset_path": "json", "dataset_kwargs": {"data_files": data_files}}
    made = {}
    for split, paths in (json_files(config) or {}).items():
        columns = read_json_split(paths, task)
        for column, values in columns.items():
            try:
                Dataset.from_dict({column: values})
            except (TypeError, ValueError, OverflowError):
                raise TaskError(
                    f"task {task!r}: {', '.join(paths)}: the values of {column!r} are of unlike "
                    "types; give all examples the same"
                ) from None
        made[split] = Dataset.from_dict(columns)
    return made


def _is_plain_file(path: str) -> bool:
    odd = "://" in path or (any(sign in path for sign in "*?[") and not Path(path).is_file())
    return not odd and Path(path).suffix not in {".gz", ".zip", ".zst", ".xz", ".bz2"}


def _rows(path: Path, task: str) -> list[dict[str, Any]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise TaskError(f"task {task!r}: its data file {path} does not exist") from None
    except UnicodeDecodeError as fault:
        raise TaskError(f"{path}: not UTF-8 text (byte {fault.start}); save it so") from None
    except OSError as fault:
        raise TaskError(f"{path}: can't be read: {fault.strerror}") from None
    if text.lstrip().startswith("["):
        rows: list[Any] = _parse(text, f"{path}")
        where = [f"{path}, item {number}" for number in range(1, len(rows) + 1)]
    else:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip()]
        where = [f"{path}, line {number}" for number, _ in lines]
        rows = [_parse(line, place) for (_, line), place in zip(lines, where, strict=True)]
    for place, row in zip(where, rows, strict=True):
        if not isinstance(row, dict):
            raise TaskError(f"{place}: not a JSON object but {type(row).__name__}")
    return rows


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as fault:
        raise TaskError(
            f"{where}: not usable as JSON: {fault.msg} (column {fault.colno})"
        ) from None
    except (RecursionError, ValueError) as fault:
        raise TaskError(f"{where}: not usable as JSON: {fault}") from None


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
    merged: dict[str, Any] = {}
    for include in [includes] if isinstance(includes, str) else includes:
        merged |= _read(path.parent / str(include), [*above, path.resolve()])
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
