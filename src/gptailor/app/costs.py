"""Write into a study's record what it is expected to cost, and what it cost.

The costs are summed over the record's entries, so they include earlier starts.
"""

from gptailor.app.assemble import Assembly, evaluates_apart
from gptailor.engine.device import device_of
from gptailor.forecast.memory import peak_bytes
from gptailor.record.entries import AskedEntry, Header, ModelEntry, SpentEntry, TrialEntry
from gptailor.record.journal import Journal

__all__ = ["record_costs", "record_forecast"]


def record_forecast(journal: Journal, assembly: Assembly) -> None:
    """Write the forecast into a record that has only its header; it costs a few seconds.

    Nothing is written where other processes evaluate: their speed and memory are not this one's.
    """
    apart = evaluates_apart(assembly.config)
    if not apart and [type(entry) for entry in journal.entries] == [Header]:
        journal.append(assembly.forecast())


def record_costs(journal: Journal, assembly: Assembly) -> SpentEntry:
    """Write the costs so far, over all starts; nothing if they did not change.

    Returns:
        The last entry: trials, candidates, layer-tokens, seconds (wall-clock time of the search,
        and the seconds of all other evaluations), and the most memory of any start that finished.
    """
    trials, others = list(journal.of(TrialEntry)), list(journal.of(ModelEntry))
    asked = {p.number: p.tailoring for entry in journal.of(AskedEntry) for p in entry.proposals}
    searched = max((entry.elapsed for entry in trials), default=0.0)
    earlier = list(journal.of(SpentEntry))
    before = max((entry.peak_bytes for entry in earlier), default=0)
    spent = SpentEntry(
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
