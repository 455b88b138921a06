"""What is to be exported, and what is known of it: read from a run, or from a config.

Knows the record's format; knows nothing of weights.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gptailor.config import Config, load_config
from gptailor.core.frozen import RECORDED
from gptailor.core.score_table import ScoreRow
from gptailor.core.statistics import bootstrap_interval, retention_interval
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Scores
from gptailor.errors import ConfigError, RecordError
from gptailor.record.journal import RECORD, read_record
from gptailor.record.run import read_run

__all__ = ["Provenance", "chosen_of", "find_provenance", "recorded_config", "recorded_header"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """A tailoring and where it comes from.

    Args:
        config: With which it was searched, or for which it was written.
        tailoring: What is to be exported.
        rows: Its scores on examples the search never saw, if they are recorded.
        rows_note: Which examples these are.
        n_tried: How many candidates were tried; None where there was no search.
        header: The header of the run's record; None where there is no run.
    """

    config: Config
    tailoring: Tailoring
    rows: tuple[ScoreRow, ...] = ()
    rows_note: str = ""
    n_tried: int | None = None
    header: Mapping[str, Any] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The local files that the tasks are read from."""
        named = [task.name for task in self.config.tasks]
        named += [task.test_task for task in self.config.tasks if task.test_task]
        return tuple(Path(name) for name in named if Path(name).is_file())


def find_provenance(run: Path, *, trial: int | None, tailoring: Path | None) -> Provenance:
    """Find out what is to be exported.

    Args:
        run: A run's folder, or a config.
        trial: A trial's number; the chosen one if None.
        tailoring: A tailoring.yaml, instead of a trial.

    Raises:
        UserError: The folder is not a run's, the trial does not exist, nothing was chosen yet.
    """
    if trial is not None and tailoring is not None:
        raise ConfigError("export: give --trial or --tailoring, not both")
    if run.is_file():
        if tailoring is None:
            raise ConfigError(f"export: {run} is a config; name a tailoring.yaml with --tailoring")
        return Provenance(load_config(run), Tailoring.load(tailoring))
    read_run(run)  # every line is held against its kind: a damaged record is told here
    config, entries = recorded_config(run), read_record(run / RECORD)
    if tailoring is not None:
        return Provenance(config, Tailoring.load(tailoring), header=entries[0])
    chosen = [entry for entry in entries if entry["kind"] == "chosen"]
    if trial is None and not chosen:
        raise RecordError(
            f"{run}: nothing was chosen yet; finish the search, or name a trial with --trial"
        )
    number = chosen[-1]["number"] if trial is None else trial
    found = _tailoring_of(run, entries, number)
    n_tried = chosen[-1]["n_tried"] if chosen else None
    rows = _rows(entries, number)
    note = "Examples that neither the search nor the choice among finalists had seen."
    return Provenance(config, found, rows, note if rows else "", n_tried, entries[0])


def chosen_of(run: Path) -> Tailoring | None:
    """The tailoring that a run chose last, or None if it has not chosen yet."""
    entries = read_record(run / RECORD)
    numbers = [entry["number"] for entry in entries if entry["kind"] == "chosen"]
    return _tailoring_of(run, entries, numbers[-1]) if numbers else None


def _tailoring_of(run: Path, entries: Sequence[Mapping[str, Any]], number: int) -> Tailoring:
    for entry in entries:
        for proposal in entry.get("proposals", ()):
            if proposal["number"] == number:
                return Tailoring.from_plain(proposal["tailoring"])
    raise RecordError(f"{run}: there is no trial {number}; see the report for their numbers")


def _rows(entries: Sequence[Mapping[str, Any]], number: int) -> tuple[ScoreRow, ...]:
    """Scores of base and result on the test split, where that trial was scored there."""
    reported = [e for e in entries if e["kind"] == "reported" and "scores" in e]  # else it failed
    base = [entry for entry in reported if entry["name"] == BASE]
    result = [entry for entry in reported if entry.get("number") == number]
    if not base or not result:
        return ()
    theirs = Scores.from_plain(base[-1]["scores"])
    ours = Scores.from_plain(result[-1]["scores"])
    rows = []
    for goal in entries[0]["goals"]:
        task, metric = goal["task"], goal["metric"]
        mine, base_m = ours.tasks[task][metric], theirs.tasks[task][metric]
        own = bootstrap_interval(mine)
        kept = retention_interval(mine, base_m)
        rows.append(
            ScoreRow(
                task,
                metric,
                base=base_m.value,
                result=mine.value,
                interval=(own.low, own.high),
                retention=None if kept is None else kept.value,
                retention_interval=None if kept is None else (kept.low, kept.high),
                n_examples=len(mine.values),
            )
        )
    return tuple(rows)


def recorded_header(run: Path) -> Mapping[str, Any]:
    """The first line of a run's record.

    Raises:
        RecordError: The folder is not a run's.
    """
    entries = read_record(run / RECORD)
    if not entries or entries[0].get("kind") != "header":
        raise RecordError(f"{run / RECORD}: has no header; name the folder of a run")
    return entries[0]


def recorded_config(run: Path) -> Config:
    """The config that a run was begun with, every default filled in; imports no plug-in metric."""
    try:
        return Config.model_validate_json(
            json.dumps(recorded_header(run)["config"]), context=RECORDED
        )
    except (ValidationError, KeyError):
        raise RecordError(
            f"{run}: its config is not one of this version; use the version that searched"
        ) from None
