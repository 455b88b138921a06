"""JSON data of local tasks: JSON lines, or a list of objects, read anew each time.

Nothing is cached on disk, so a changed file is seen.
"""

import bisect
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptailor.errors import TaskError
from gptailor.files.safe_read import read_text

__all__ = ["json_dataset", "json_files", "place_of_row"]

_MAX_BYTES = 2**30  # a hundred times the largest benchmark of multiple choice
_PACKED = {".gz", ".zip", ".zst", ".xz", ".bz2"}


def json_dataset(task: str, /, data_files: Any = None, **_: Any) -> dict[str, Any]:
    """Split -> `datasets.Dataset` in memory; lm-eval calls it as the task's `custom_dataset`.

    A key that an object lacks is None.
    """
    from datasets import Dataset

    made = {}
    for split, paths in (json_files("json", {"data_files": data_files}) or {}).items():
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

    def misfit(n: int) -> str:
        try:
            Dataset.from_dict({column: values[:n]})
        except (TypeError, ValueError, OverflowError) as error:
            return next(iter(str(error).splitlines()), "") or type(error).__name__
        return ""

    if reason := misfit(len(values)):
        first = bisect.bisect_left(range(1, len(values)), True, key=lambda n: misfit(n) != "")
        raise TaskError(
            f"{places[first]}: the values of {column!r} don't all fit one type: {reason}"
        )


def json_files(dataset_path: object, dataset_kwargs: object) -> dict[str, list[str]] | None:
    """The local JSON files of a task by split, or None if its data come from elsewhere."""
    if dataset_path != "json" or not isinstance(dataset_kwargs, Mapping):
        return None
    if set(dataset_kwargs) - {"data_files", "trust_remote_code"}:
        return None
    files = dataset_kwargs.get("data_files")
    splits = files if isinstance(files, Mapping) else {"train": files}
    found = {str(k): [v] if isinstance(v, str) else list(v or []) for k, v in splits.items()}
    flat = [path for paths in found.values() for path in paths]
    if not flat or not all(isinstance(path, str) and _is_plain_file(path) for path in flat):
        return None
    return found


def place_of_row(files: Mapping[str, list[str]] | None, split: str, index: int) -> str | None:
    """File and line of a split's row, such as ``data.jsonl, line 7``; None if not in `files`."""
    paths = (files or {}).get(split, [])
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
    names = Counter(name for name, _ in pairs)
    if len(names) < len(pairs):
        raise ValueError(f"the key {names.most_common(1)[0][0]!r} appears twice")
    return dict(pairs)
