"""Write the costs of a study into its record: what is expected, and what it came to."""

from gptailor.app.assemble import Assembly, evaluates_apart
from gptailor.engine.device import device_of
from gptailor.forecast.memory import peak_bytes
from gptailor.record.entries import (
    AskedEntry,
    BaselineEntry,
    ForecastEntry,
    ModelEntry,
    OwnTextsEntry,
    RefittedEntry,
    SlopeEntry,
    SpentEntry,
    TrialEntry,
    WrittenEntry,
)
from gptailor.record.journal import Journal

__all__ = ["record_costs", "record_forecast"]


def record_forecast(journal: Journal, assembly: Assembly) -> ForecastEntry | None:
    """Write the forecast into a record that has only its header; it costs a few seconds.

    Nothing is written where other processes evaluate: their speed and memory are not this one's.
    Nor is anything for baselines: what they will cut is not known. Returns what was written.
    """
    entries = [entry for entry in journal.entries if not isinstance(entry, OwnTextsEntry)]
    new = len(entries) == 1 + len(assembly.known)  # the header, and what was known before
    searches = assembly.proposals is None
    if not new or not searches or evaluates_apart(assembly.config):
        return None
    expected = assembly.forecast()
    journal.append(expected)
    return expected


def record_costs(journal: Journal, assembly: Assembly) -> SpentEntry:
    """Write the costs so far, over all starts; nothing if they did not change.

    The seconds are the wall-clock time of the search, and those of all other evaluations, of fits
    and refits; the memory is the most of any start that finished.

    Returns:
        What the record has now.
    """
    trials = list(journal.of(TrialEntry))
    others = [*journal.of(ModelEntry), *journal.of(WrittenEntry)]
    fits: list[RefittedEntry | SlopeEntry] = list(journal.of(RefittedEntry))
    fits += journal.of(SlopeEntry)
    asked = {p.number: p.tailoring for entry in journal.of(AskedEntry) for p in entry.proposals}
    searched = max((entry.elapsed for entry in trials), default=0.0)
    earlier = list(journal.of(SpentEntry))
    before = max((entry.peak_bytes for entry in earlier), default=0)
    spent = SpentEntry(
        n_trials=len(trials),
        n_candidates=len({asked[entry.number] for entry in trials}),
        layer_tokens=sum(entry.layer_tokens for entry in [*trials, *others])
        + sum(entry.layer_tokens for entry in fits)
        + sum(entry.layer_tokens for entry in journal.of(BaselineEntry)),
        seconds=round(searched + sum(e.seconds for e in others) + sum(e.seconds for e in fits), 3),
        peak_bytes=max(before, peak_bytes(device_of(assembly.config.engine.device))),
    )
    if earlier and earlier[-1].model_copy(update={"peak_bytes": spent.peak_bytes}) == spent:
        return earlier[-1]
    journal.append(spent)
    return spent
