"""What a study is to cost and what it cost, written into its record.

The forecast stands there before the first score; what was spent is added up from the entries
themselves, so that stops and restarts add up too. Knows nothing of how either is shown.
"""

import dataclasses
import json
from typing import Any

from gptailor.app.assemble import Assembly, evaluates_apart
from gptailor.engine.device import device_of
from gptailor.forecast.forecast import forecast
from gptailor.forecast.memory import peak_bytes
from gptailor.record.journal import Journal

__all__ = ["record_costs", "record_forecast"]

_OTHERS = ("reference", "finalist", "reported")  # entries of evaluations that are no trials


def record_forecast(journal: Journal, assembly: Assembly) -> None:
    """Write the forecast into a record that has only its header; it costs a few seconds.

    Nothing is written where other processes are to evaluate: this one's speed and memory would say
    little about theirs.
    """
    apart = evaluates_apart(assembly.config)
    if not apart and [entry["kind"] for entry in journal.entries] == ["header"]:
        journal.append("forecast", **dataclasses.asdict(forecast(assembly)))


def record_costs(journal: Journal, assembly: Assembly) -> dict[str, Any]:
    """Write what was spent so far, over all starts; nothing where nothing was added.

    Returns:
        The last entry: trials, candidates, layer-tokens, seconds (the search by the clock, the
        other evaluations by their own), and the most memory of any start that came to its end.
    """
    entries = journal.entries  # from the disk, once
    trials = [entry for entry in entries if entry["kind"] == "trial"]
    others = [entry for entry in entries if entry["kind"] in _OTHERS]
    numbers = {entry["number"] for entry in trials}
    tailorings = {
        json.dumps(plain["tailoring"], sort_keys=True)
        for entry in entries
        if entry["kind"] == "asked"
        for plain in entry["proposals"]
        if plain["number"] in numbers
    }
    searched = max((entry["elapsed"] for entry in trials), default=0.0)
    spent = {
        "n_trials": len(trials),
        "n_candidates": len(tailorings),
        "layer_tokens": sum(entry.get("layer_tokens", 0) for entry in [*trials, *others]),
        "seconds": round(searched + sum(entry.get("seconds", 0.0) for entry in others), 3),
    }
    told = list(journal.of("spent"))
    if told and all(told[-1][name] == value for name, value in spent.items()):
        return told[-1]
    before = max((entry["peak_bytes"] for entry in told), default=0)
    peak = max(before, peak_bytes(device_of(assembly.config.engine.device)))
    return journal.append("spent", **spent, peak_bytes=peak)
