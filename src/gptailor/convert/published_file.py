"""Find one candidate in a JSON file that the published code, or its optimiser SMAC, wrote.

It may hold one candidate, a list or mapping of them, one JSON object a line, or be SMAC's
``runhistory.json`` with one objective or several.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gptailor.convert.published import finite_number, is_published
from gptailor.core.objective import pareto_front
from gptailor.errors import TailoringError, listed
from gptailor.files.safe_read import read_text

__all__ = ["read_published"]

Candidate = Mapping[str, Any]

_MAX_BYTES = 64 * 2**20  # a run history of 500 candidates of 40 layers is 3 MB
_WRAPPED_DEPTH = 2
_SHOWN = 10
_SUCCESS = 1  # smac.runhistory.StatusType.SUCCESS


class _Run(NamedTuple):
    """One evaluation in a run history."""

    candidate: str
    budget: float
    costs: tuple[float, ...]  # the lower the better


def read_published(path: Path, *, trial: str | None = None) -> tuple[Candidate, tuple[str, ...]]:
    """Read one candidate from a file, and a note if it was chosen as the best of several.

    Args:
        path: The JSON file.
        trial: Which candidate, where there are several: its id in a run history, its key, or its
            index in a list.

    Raises:
        TailoringError: The file can't be read, or holds no candidate, or several and none is named.
    """
    text = read_text(path, most=_MAX_BYTES, noun="JSON file", error_type=TailoringError)
    plain = _parsed(path, text)
    if is_published(plain):
        if trial is not None:
            raise TailoringError(f"{path}: holds a single candidate; leave the trial's name out")
        return plain, ()
    history = isinstance(plain, dict) and isinstance(plain.get("data"), list)
    history = history and isinstance(plain.get("configs"), dict)
    found = dict(_candidates(plain["configs"] if history else plain))
    if not found:
        raise TailoringError(
            f"{path}: no candidate of the published search is in it (keys such as 'remove_idx_0' "
            "and 'layer_0_candidate_0'); give its search_config JSON, or SMAC's runhistory.json"
        )
    names = listed([name[:30] for name in found], _SHOWN)
    if trial is not None:
        if trial not in found:
            raise TailoringError(f"{path}: has no candidate {trial!r}; it has {names}")
        return found[trial], ()
    if len(found) == 1:
        return next(iter(found.values())), ()
    entries = plain["data"] if history else []
    runs = [run for entry in entries if (run := _run(entry)) and run.candidate in found]
    if not runs:
        why = "no candidate in it was scored" if history else f"holds {len(found)} candidates"
        raise TailoringError(f"{path}: {why} ({names}); name one with --trial")
    best, at = _best(path, runs)
    note = f"candidate {best.candidate} of {len(found)} is taken: the lowest cost{at}"
    return found[best.candidate], (f"{note} ({_costs(best)})",)


def _parsed(path: Path, text: str) -> Any:
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        try:
            return json.loads(text, object_pairs_hook=_mapping)
        except json.JSONDecodeError as error:
            if len(lines) < 2 or error.msg != "Extra data":
                raise
            return [json.loads(line, object_pairs_hook=_mapping) for line in lines]
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TailoringError(f"{path}: not usable as JSON: {reason}") from None


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated key: JSON would silently keep the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} appears twice")
    return made


def _candidates(plain: Any) -> Iterator[tuple[str, Candidate]]:
    """Every candidate by the name that `trial` has for it."""
    items = enumerate(plain) if isinstance(plain, list) else ()
    for name, item in plain.items() if isinstance(plain, dict) else items:
        candidate = _unwrapped(item, _WRAPPED_DEPTH)
        if candidate is not None:
            yield str(name), candidate


def _unwrapped(item: Any, depth: int) -> Candidate | None:
    """The candidate that an item is, or the one inside it, as in ``{"score": 1, "config": {}}``."""
    if is_published(item):
        candidate: Candidate = item
        return candidate
    values = item.values() if depth and isinstance(item, dict) else ()
    found = [one for value in values if (one := _unwrapped(value, depth - 1)) is not None]
    return found[0] if len(found) == 1 else None


def _best(path: Path, runs: list[_Run]) -> tuple[_Run, str]:
    """The run at the highest budget that is best in every objective, and the budget in words.

    A candidate that was run several times there, for other seeds or instances, counts by its mean.
    """
    budget = max(run.budget for run in runs)
    at = "" if math.isinf(budget) else f" at budget {budget:g}"
    runs = [run for run in runs if run.budget == budget]
    if len({len(run.costs) for run in runs}) > 1:
        raise TailoringError(f"{path}: its costs are not of one length; name one with --trial")
    of_each: dict[str, list[tuple[float, ...]]] = {}
    for run in runs:
        of_each.setdefault(run.candidate, []).append(run.costs)
    runs = [
        _Run(name, budget, tuple(np.mean(costs, axis=0).tolist()))
        for name, costs in of_each.items()
    ]
    at += ", the mean of repeated runs" if any(len(costs) > 1 for costs in of_each.values()) else ""
    front = [runs[index] for index in pareto_front(np.array([run.costs for run in runs]))]
    if len(front) > 1:
        costs = "; ".join(f"{run.candidate}: {_costs(run)}" for run in front[:_SHOWN])
        raise TailoringError(
            f"{path}: {len(front)} candidates are best{at}, none of them in every objective "
            f"(costs of each: {costs}); name one with --trial"
        )
    return front[0], at


def _run(entry: Any) -> _Run | None:
    """Read an entry as SMAC 2.3 and later writes it (a mapping), or earlier (a list)."""
    if isinstance(entry, dict):
        fields: list[Any] = [entry.get(key) for key in ("config_id", "budget", "cost", "status")]
    elif isinstance(entry, list) and len(entry) in (10, 11):
        # id, instance, seed, budget, cost, time, [cpu time,] status, start, end, more
        fields = [entry[0], entry[3], entry[4], entry[-4]]
    else:
        return None
    name, budget, cost, status = fields
    costs = [finite_number(one) for one in (cost if isinstance(cost, list) else [cost])]
    known = [one for one in costs if one is not None]
    if status != _SUCCESS or not known or len(known) < len(costs):
        return None
    limit = finite_number(budget)
    return _Run(str(name), math.inf if limit is None else limit, tuple(known))


def _costs(run: _Run) -> str:
    return ", ".join(f"{cost:.4g}" for cost in run.costs)
