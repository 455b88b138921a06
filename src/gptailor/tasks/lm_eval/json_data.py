"""JSON data of local tasks: JSON lines, or a list of objects, read anew each time.

Nothing is cached on disk, so a changed file is seen. Makes `datasets` objects, which lm-eval wants.
"""

import bisect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptailor.errors import TaskError
from gptailor.files.safe_read import read_text

__all__ = ["json_dataset", "json_files", "place_of_row"]

_MAX_BYTES = 2**30  # a hundred times the largest benchmark of multiple choice
_PACKED = {".gz", ".zip", ".zst", ".xz", ".bz2"}


def json_dataset(task: str, /, data_files: Any = None, **_: Any) -> dict[str, Any]:
    """Read the data of a local task; lm-eval calls it as the task's `custom_dataset`.

    Args:
        task: The task's name, for messages.
        data_files: As in the task's `dataset_kwargs`.

    Returns:
        Split -> `datasets.Dataset`, in memory only; a key that an object lacks is None.

    Raises:
        TaskError: A file is missing, empty or broken, or a column holds values that one type can't;
            names the file and the line.
    """
    from datasets import Dataset

    config = {"dataset_path": "json", "dataset_kwargs": {"data_files": data_files}}
    made = {}
    for split, paths in (json_files(config) or {}).items():
        rows = [row for path in paths for row in _rows(Path(path), task)]
        if not rows:
            raise TaskError(f"task {task!r}: {', '.join(paths)}: holds no examples")
        names = dict.fromkeys(key for _, row in rows for key in row)
        columns = {name: [row.get(name) for _, row in rows] for name in names}
        for name, values in columns.items():
            _refuse_misfit(name, values, [place for place, _ in rows])
        made[split] = Dataset.from_dict(columns)
    return made


def _refuse_misfit(column: str, values: Sequence[Any], places: Sequence[str]) -> None:
    """Refuse values without a common type in `datasets`; name the first that does not fit."""
    from datasets import Dataset

    def misfit(n: int) -> str | None:
        try:
            Dataset.from_dict({column: values[:n]})
        except (TypeError, ValueError, OverflowError) as error:
            return str(error).splitlines()[0]
        return None

    reason = misfit(len(values))
    if reason is not None:
        counts = range(1, len(values) + 1)
        first = bisect.bisect_left(counts, True, key=lambda n: misfit(n) is not None)
        raise TaskError(
            f"{places[first]}: the values of {column!r} don't all fit one type: {reason}"
        )


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


def place_of_row(config: Mapping[str, Any], split: str, index: int) -> str | None:
    """File and line of a row, such as ``data.jsonl, line 7``; None where it is not in our files.

    Args:
        config: As `json_files` takes it.
        split: As the data call it.
        index: Of the row in the split, from 0.
    """
    paths = (json_files(config) or {}).get(split, [])
    places = [place for path in paths for place, _ in _rows(Path(path), split)]
    return places[index] if index < len(places) else None


def _is_plain_file(path: str) -> bool:
    odd = "://" in path or (any(sign in path for sign in "*?[") and not Path(path).is_file())
    return not odd and Path(path).suffix not in _PACKED


def _rows(path: Path, task: str) -> list[tuple[str, dict[str, Any]]]:
    """Every object of a file, after its file and line."""
    if not path.exists():
        raise TaskError(f"task {task!r}: its data file {path} does not exist")
    text = read_text(path, most=_MAX_BYTES, noun="JSONL file", error_type=TaskError)
    if text.lstrip().startswith("["):
        items = enumerate(_parse(text, f"{path}"), 1)
        rows = [(f"{path}, item {number}", row) for number, row in items]
    else:
        lines = [(f"{path}, line {n}", line) for n, line in enumerate(text.split("\n"), 1)]
        rows = [(place, _parse(line, place)) for place, line in lines if line.strip()]
    for place, row in rows:
        if not isinstance(row, dict):
            raise TaskError(f"{place}: not a JSON object but {type(row).__name__}")
    return rows


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} (column {error.colno})"
    except (RecursionError, ValueError) as error:
        problem = str(error)
    raise TaskError(f"{where}: not usable as JSON: {problem}")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a key twice: JSON would silently keep the last."""
    plain = dict(pairs)
    if len(plain) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in plain if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} appears twice")
    return plain
