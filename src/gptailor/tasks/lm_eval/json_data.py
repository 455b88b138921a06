"""JSON data of local tasks: JSON lines, or a list of objects, read anew each time.

Nothing is cached on disk, so a changed file is seen. Knows nothing of tasks or of lm-eval; makes
`datasets` objects, which lm-eval wants.
"""

import bisect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptailor.errors import TaskError
from gptailor.files.safe_read import read_text

__all__ = ["json_dataset", "json_files", "place_of_row", "read_json_split"]


_MAX_BYTES = 2**30  # a hundred times the largest benchmark of multiple choice


def json_dataset(task: str, /, data_files: Any = None, **_: Any) -> dict[str, Any]:
    """Read the data of a local task, now: what lm-eval calls for them.

    Args:
        task: The task's name, for messages.
        data_files: As in the task's `dataset_kwargs`.

    Returns:
        Split -> `datasets.Dataset`, in memory only.

    Raises:
        TaskError: A file is invalid, or a column holds values that one type can't.
    """
    from datasets import Dataset

    config = {"dataset_path": "json", "dataset_kwargs": {"data_files": data_files}}
    made = {}
    for split, paths in (json_files(config) or {}).items():
        columns = read_json_split(paths, task)
        for column, values in columns.items():
            error = _misfit(column, values)
            if error is not None:
                n_sound = bisect.bisect_left(
                    range(1, len(values) + 1),
                    True,
                    key=lambda n: _misfit(column, values[:n]) is not None,
                )
                raise TaskError(
                    f"{place_of_row(config, split, n_sound)}: the values of {column!r} don't all "
                    f"fit one type: {str(error).splitlines()[0]}"
                )
        made[split] = Dataset.from_dict(columns)
    return made


def _misfit(column: str, values: list[Any]) -> Exception | None:
    """What `datasets` says against a column, or None."""
    from datasets import Dataset

    try:
        Dataset.from_dict({column: values})
    except (TypeError, ValueError, OverflowError) as error:
        return error
    return None


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
        rows += [row for _, row in _rows(Path(path), task)]
    if not rows:
        raise TaskError(f"task {task!r}: {', '.join(paths)}: holds no examples")
    columns = dict.fromkeys(key for row in rows for key in row)
    return {column: [row.get(column) for row in rows] for column in columns}


def place_of_row(config: Mapping[str, Any], split: str, index: int) -> str | None:
    """Where a row stands, such as ``data.jsonl, line 7``; None where the data are not our files.

    Args:
        config: As `json_files` takes it.
        split: The split, as the data call it.
        index: Of the row in the split, from 0.
    """
    paths = (json_files(config) or {}).get(split, [])
    places = [place for path in paths for place, _ in _rows(Path(path), split)]
    return places[index] if index < len(places) else None


def _is_plain_file(path: str) -> bool:
    odd = "://" in path or (any(sign in path for sign in "*?[") and not Path(path).is_file())
    return not odd and Path(path).suffix not in {".gz", ".zip", ".zst", ".xz", ".bz2"}


def _rows(path: Path, task: str) -> list[tuple[str, dict[str, Any]]]:
    if not path.exists():
        raise TaskError(f"task {task!r}: its data file {path} does not exist")
    text = read_text(path, most=_MAX_BYTES, noun="JSONL file", error_type=TaskError)
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
    return list(zip(where, rows, strict=True))


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise TaskError(
            f"{where}: not usable as JSON: {error.msg} (column {error.colno})"
        ) from None
    except (RecursionError, ValueError) as error:
        raise TaskError(f"{where}: not usable as JSON: {error}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once each: JSON would silently keep the last."""
    plain = dict(pairs)
    if len(plain) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in plain if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return plain
