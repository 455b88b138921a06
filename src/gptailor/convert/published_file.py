"""Find one candidate in a JSON file that the published code, or its optimiser SMAC, wrote.

Reads a single candidate, a list or mapping of them (a dump an iteration), one JSON object a line,
and SMAC's ``runhistory.json`` with one objective or several. Knows nothing of what the keys of a
candidate mean.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from gptailor.convert.published import is_published
from gptailor.errors import TailoringError
from gptailor.files.safe_read import read_text

__all__ = ["read_published"]

Candidate = Mapping[str, Any]

_MAX_BYTES = 64 * 2**20  # a run history of 500 candidates of 40 layers is 3 MB
_WRAPPED_DEPTH = 2
_SHOWN = 10
_SUCCESS = 1  # smac.runhistory.StatusType.SUCCESS


@dataclass(frozen=True, slots=True)
class _Run:
    """One evaluation in a run history; the lower a cost the better."""

    config: str
    budget: float
    costs: tuple[float, ...]


def read_published(path: Path, *, trial: str | None = None) -> tuple[Candidate, tuple[str, ...]]:
    """Read one candidate from a file.

    Args:
        path: The JSON file.
        trial: Which candidate, where there are several: its id in a run history, its key, or its
            place in a list from 0.

    Returns:
        The candidate's keys and values as they stand, and notes on which one was taken.

    Raises:
        TailoringError: The file can't be read, or holds no candidate, or several and none is named.
    """
    plain = _parsed(
        path, read_text(path, most=_MAX_BYTES, noun="JSON file", error_type=TailoringError)
    )
    if is_published(plain):
        if trial is not None:
            raise TailoringError(f"{path}: holds a single candidate; leave the trial's name out")
        return plain, ()
    found = dict(_found_in(plain))
    if not found:
        raise TailoringError(
            f"{path}: no candidate of the published search is in it (keys such as 'remove_idx_0' "
            "and 'layer_0_candidate_0'); give its search_config JSON, or SMAC's runhistory.json"
        )
    if trial is not None:
        if trial not in found:
            raise TailoringError(f"{path}: has no candidate {trial!r}; it has {_told(found)}")
        return found[trial], ()
    if len(found) == 1:
        return next(iter(found.values())), ()
    return _best(path, plain, found)


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_mapping)
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and "Extra data" in str(error):
            try:  # one JSON object a line
                return [json.loads(line, object_pairs_hook=_mapping) for line in lines]
            except (ValueError, RecursionError):
                pass
        told = " ".join(str(error).split())[:200]
        raise TailoringError(f"{path}: not usable as JSON: {told}") from None


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice: JSON would silently keep the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return made


def _found_in(plain: Any) -> Iterator[tuple[str, Candidate]]:
    """Every candidate by the name that `trial` has for it."""
    if _is_history(plain):
        plain = plain["configs"]
    items: list[tuple[Any, Any]] = []
    if isinstance(plain, list):
        items = list(enumerate(plain))
    elif isinstance(plain, Mapping):
        items = list(plain.items())
    for name, item in items:
        candidate = _unwrapped(item, _WRAPPED_DEPTH)
        if candidate is not None:
            yield str(name), candidate


def _unwrapped(item: Any, depth: int) -> Candidate | None:
    """The candidate that an item is, or the one inside it, as in ``{"score": 1, "config": {}}``."""
    if is_published(item):
        candidate: Candidate = item
        return candidate
    if depth == 0 or not isinstance(item, Mapping):
        return None
    inner = [_unwrapped(value, depth - 1) for value in item.values()]
    found = [each for each in inner if each is not None]
    return found[0] if len(found) == 1 else None


def _is_history(plain: Any) -> bool:
    return (
        isinstance(plain, Mapping)
        and isinstance(plain.get("configs"), Mapping)
        and isinstance(plain.get("data"), list)
    )


def _best(
    path: Path, plain: Any, found: Mapping[str, Candidate]
) -> tuple[Candidate, tuple[str, ...]]:
    """The best candidate of a run history, where one is best in every objective."""
    if not _is_history(plain):
        raise TailoringError(
            f"{path}: holds {len(found)} candidates ({_told(found)}); name one with --trial"
        )
    runs = [run for entry in plain["data"] if (run := _run(entry)) and run.config in found]
    if not runs:
        raise TailoringError(
            f"{path}: no candidate in it was scored; name one with --trial ({_told(found)})"
        )
    budget = max(run.budget for run in runs)
    full = [run for run in runs if run.budget == budget]
    if len({len(run.costs) for run in full}) > 1:
        raise TailoringError(f"{path}: its costs are not of one length; name one with --trial")
    front = [run for run in full if not any(_beats(other, run) for other in full)]
    ids = list(dict.fromkeys(run.config for run in front))
    at = "" if math.isinf(budget) else f" at budget {budget:g}"
    if len(ids) > 1 and len(front[0].costs) > 1:
        costs = {run.config: ", ".join(f"{cost:.4g}" for cost in run.costs) for run in front}
        told = "; ".join(f"{name}: {costs[name]}" for name in ids[:_SHOWN])
        raise TailoringError(
            f"{path}: {len(ids)} candidates are best{at}, none of them in every objective "
            f"(costs of each: {told}); name one with --trial"
        )
    cost = ", ".join(f"{cost:.4g}" for cost in front[0].costs)
    note = f"candidate {ids[0]} of {len(found)} is taken: the lowest cost{at} ({cost})"
    return found[ids[0]], (note,)


def _beats(one: _Run, other: _Run) -> bool:
    pairs = list(zip(one.costs, other.costs, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _run(entry: Any) -> _Run | None:
    """Read an entry as SMAC 2.3 and later writes it (a mapping), or earlier (a list)."""
    if isinstance(entry, Mapping):
        named = [entry.get(key) for key in ("config_id", "budget", "cost", "status")]
    elif isinstance(entry, list) and len(entry) in (10, 11):
        # id, instance, seed, budget, cost, time, [cpu time,] status, start, end, more
        named = [entry[0], entry[3], entry[4], entry[-4]]
    else:
        return None
    name, budget, cost, status = named
    costs: list[Any] = cost if isinstance(cost, list) else [cost]
    if status != _SUCCESS or not costs or not all(_finite(each) for each in costs):
        return None
    full = float(budget) if _finite(budget) else math.inf
    return _Run(str(name), full, tuple(map(float, costs)))


def _finite(value: Any) -> TypeGuard[float]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < 1e300


def _told(found: Mapping[str, Candidate]) -> str:
    names = [name if len(name) <= 30 else f"{name[:30]}..." for name in list(found)[:_SHOWN]]
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return ", ".join(name if name.isprintable() else repr(name) for name in names) + more
