"""What a study is to cost and what it cost, written into its record.

The forecast stands there before the first score; what was spent is added up from the entries
themselves, so that stops and restarts add up too. Knows nothing of how either is shown.
"""

import dataclasses

from gptailor.app.assemble import Assembly, evaluates_apart
from gptailor.engine.device import device_of
from gptailor.forecast.forecast import forecast
from gptailor.forecast.memory import peak_bytes
from gptailor.record.entries import AskedEntry, CostEntry, Header, ModelEntry, TrialEntry
from gptailor.record.journal import Journal

__all__ = ["record_costs", "record_forecast"]


def record_forecast(journal: Journal, assembly: Assembly) -> None:
    """Write the forecast into a record that has only its header; it costs a few seconds.

    Nothing is written where other processes are to evaluate: this one's speed and memory would say
    little about theirs.
    """
    apart = evaluates_apart(assembly.config)
    if not apart and [type(entry) for entry in journal.entries] == [Header]:
        journal.append(CostEntry(kind="forecast", **dataclasses.asdict(forecast(assembly))))


def record_costs(journal: Journal, assembly: Assembly) -> CostEntry:
    """Write what was spent so far, over all starts; nothing where nothing was added.

    Returns:
        The last entry: trials, candidates, layer-tokens, seconds (the search by the clock, the
        other evaluations by their own), and the most memory of any start that came to its end.
    """
    trials, others = list(journal.of(TrialEntry)), list(journal.of(ModelEntry))
    asked = {p.number: p.tailoring for entry in journal.of(AskedEntry) for p in entry.proposals}
    searched = max((entry.elapsed for entry in trials), default=0.0)
    earlier = list(journal.of(CostEntry, "spent"))
    before = max((entry.peak_bytes for entry in earlier), default=0)
    spent = CostEntry(
        kind="spent",
        n_trials=len(trials),
        n_candidates=len({asked[entry.number] for entry in trials}),
        layer_tokens=sum(entry.layer_tokens for entry in [*trials, *others]),
        seconds=round(searched + sum(entry.seconds for entry in others), 3),
        peak_bytes=max(before, peak_bytes(device_of(assembly.config.engine.device))),
    )
    if earlier and earlier[-1].model_copy(update={"peak_bytes": spent.peak_bytes}) == spent:
        return earlier[-1]
    journal.append(spent)
    return spent
