"""Read a run's folder: what was asked, told, chosen and evaluated.

A study that is still going on, was killed, or has no complete trial is read as far as it goes; a
record that can't be used is refused with a sentence. Knows nothing of pages, and writes nothing.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from gptailor.core.metrics import METRICS, Metric
from gptailor.core.objective import Goal, Objective
from gptailor.core.plugins import MERGE_METHODS
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Proposal, Scores, Trial
from gptailor.errors import ConfigError, RecordError, UserError
from gptailor.files.safe_read import read_plain
from gptailor.record.entries import (
    Asked,
    AskedProposal,
    Chosen,
    Costs,
    Evaluation,
    Finalist,
    Header,
    Reference,
    Repaired,
    Reported,
    Resumed,
    TrialEntry,
    to_scores,
)
from gptailor.record.journal import RECORD, read_record

__all__ = ["RunRecord", "read_run"]

EVALUATION = "evaluation.json"
_MOST = 2**30  # bytes of an evaluation: a hundred tasks with all their examples
_TORN = "The last line of the record is not whole yet, or torn, and was left out."
_OUTDATED = "evaluation.json is of a model that was chosen before; run 'gptailor evaluate' again."
_EVALUATION_FORMAT = "gptailor-evaluation/1"

LineT = TypeVar("LineT", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What the record of one study says.

    Args:
        folder: The run's folder.
        header: What the study is.
        references: Member to its scores on the search split.
        trials: The finished trials by number, complete or failed.
        elapsed: Trial number to seconds of search when it was told.
        open_numbers: Trials that were asked and have not been told.
        resumed: One line a restart.
        finalists: Candidate number to its scores on the selection split.
        compared: Member to its scores on the selection split.
        chosen: The pick; None where the study has not ended.
        reported: Model name to its scores on the test split, by the engine.
        evaluation: What ``gptailor evaluate`` wrote; None where it has not been run.
        forecast: What the study was to cost; None where an older version began it.
        spent: What it cost in the end, over all starts; None before it came to an end.
        notes: What was passed over in reading, one sentence each.
    """

    folder: Path
    header: Header
    references: Mapping[str, Scores] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    elapsed: Mapping[int, float] = field(default_factory=dict)
    open_numbers: tuple[int, ...] = ()
    resumed: tuple[Resumed, ...] = ()
    finalists: Mapping[int, Scores] = field(default_factory=dict)
    compared: Mapping[str, Scores] = field(default_factory=dict)
    chosen: Chosen | None = None
    reported: Mapping[str, Scores] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    forecast: Costs | None = None
    spent: Costs | None = None
    notes: tuple[str, ...] = ()

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What was wanted, one a task."""
        return tuple(
            Goal(goal.task, goal.metric, goal.weight, goal.proxy) for goal in self.header.goals
        )

    @property
    def rank_metrics(self) -> tuple[str, ...]:
        """The continuous metrics that stand in for the user's own on few examples."""
        return tuple(dict.fromkeys(goal.measured(proxy=True) for goal in self.goals))

    @property
    def objective(self) -> Objective | None:
        """Losses relative to the base on the search split; None before the base was scored."""
        reference = self.references.get(BASE)
        return None if reference is None else Objective(self.goals, reference)

    @property
    def complete(self) -> tuple[Trial, ...]:
        """The trials that have scores."""
        return tuple(trial for trial in self.trials if trial.complete)

    @property
    def failed(self) -> tuple[Trial, ...]:
        """The trials that have none."""
        return tuple(trial for trial in self.trials if not trial.complete)

    @property
    def n_kept(self) -> int:
        """Layers of a candidate that may be chosen."""
        return self.header.family.n_layers - self.header.remove

    @property
    def able(self) -> tuple[Trial, ...]:
        """Complete trials of the size wanted, on the most examples that any of them has."""
        sized = [t for t in self.complete if len(t.tailoring.layers) == self.n_kept]
        most = max((trial.proposal.n_examples for trial in sized), default=0)
        return tuple(trial for trial in sized if trial.proposal.n_examples == most)

    @property
    def result(self) -> Trial | None:
        """The chosen trial; None where the study has not ended."""
        if self.chosen is None:
            return None
        return next(trial for trial in self.trials if trial.number == self.chosen.number)


def read_run(folder: Path) -> RunRecord:
    """Read ``record.jsonl`` and, where there is one, ``evaluation.json``.

    Args:
        folder: The folder that ``gptailor search`` wrote.

    Raises:
        RecordError: The folder, the record or the evaluation can't be used.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder; name the one that 'gptailor search' wrote")
    path = folder / RECORD
    entries = read_record(path)
    header = _header(path, entries)
    _load_merge_methods(header, path)
    torn = [] if _ends_whole(path) else [_TORN]
    reader = _Reader(header, torn)
    for number, entry in enumerate(entries[1:], start=2):
        reader.take(f"{path}, line {number}", entry)
    return reader.run(folder, _read_evaluation(folder / EVALUATION))


def _load_merge_methods(header: Header, path: Path) -> None:
    """Import what the recorded config, not a tailoring, names as ``module:attribute``."""
    named = header.config.get("merge")
    for name in named if isinstance(named, list) else []:
        try:
            MERGE_METHODS.load(str(name))
        except ConfigError as error:
            raise RecordError(
                [f"{path}, line 1: {problem}" for problem in error.problems]
            ) from None


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _parsed(model: type[LineT], plain: object, where: str) -> LineT:
    try:
        return model.model_validate(plain)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "the line"
        raise RecordError(f"{where}: {place}: {first['msg'].lower()}") from None


def _header(path: Path, entries: Sequence[dict[str, Any]]) -> Header:
    if not entries:
        raise RecordError(f"{path}: the record is empty; run 'gptailor search' again")
    if entries[0]["kind"] != "header":
        raise RecordError(
            f"{path}, line 1: a record begins with a header, not with {entries[0]['kind']!r}; "
            "restore the file from a copy"
        )
    header = _parsed(Header, entries[0], f"{path}, line 1")
    _know_metrics(header, f"{path}, line 1")
    return header


def _know_metrics(header: Header, where: str) -> None:
    """Know the plug-in metrics by what the header says of them; nothing is imported."""
    try:
        for name, facts in header.metrics.items():
            recorded = Metric(facts.higher_is_better, facts.meaning, facts.transform)
            METRICS.remember(name, recorded)
    except ConfigError as error:
        raise RecordError(f"{where}: {error}") from None
    known = {*METRICS.builtin, *header.metrics}
    for goal in header.goals:
        if goal.metric not in known or (goal.proxy or goal.metric) not in known:
            raise RecordError(
                f"{where}: {goal.metric!r} of task {goal.task!r} is not a metric of this version, "
                "and the record does not say which way is better; use the version that searched"
            )


def _read_evaluation(path: Path) -> Evaluation | None:
    if not path.exists():
        return None
    again = "run 'gptailor evaluate' again, or remove the file"
    read = read_plain(
        path, most=_MOST, noun="file that 'gptailor evaluate' wrote", error_type=RecordError
    )
    try:
        plain = json.loads(read)
    except (ValueError, RecursionError):
        raise RecordError(f"{path}: not usable as JSON; {again}") from None
    found = plain.get("format") if isinstance(plain, dict) else None
    if found != _EVALUATION_FORMAT:
        raise RecordError(f"{path}: format must be {_EVALUATION_FORMAT!r}, not {found!r}; {again}")
    return _parsed(Evaluation, plain, str(path))


class _Reader:
    """Takes the lines in order and holds them against each other."""

    def __init__(self, header: Header, notes: Iterable[str]) -> None:
        self._header = header
        self._notes = list(notes)
        self._asked: dict[int, AskedProposal] = {}
        self._trials: dict[int, Trial] = {}
        self._elapsed: dict[int, float] = {}
        self._references: dict[str, Scores] = {}
        self._resumed: list[Resumed] = []
        self._finalists: dict[int, Scores] = {}
        self._compared: dict[str, Scores] = {}
        self._reported: dict[tuple[str, int | None], Scores] = {}
        self._chosen: Chosen | None = None
        self._costs: dict[str, Costs] = {}
        self._takers: dict[str, Callable[[str, dict[str, Any]], None]] = {
            "reference": self._take_reference,
            "asked": self._take_asked,
            "forecast": self._take_costs,
            "spent": self._take_costs,
            "trial": self._take_trial,
            "resumed": self._take_resumed,
            "finalist": self._take_finalist,
            "chosen": self._take_chosen,
            "reported": self._take_reported,
            "repaired": self._take_repaired,
        }

    def take(self, where: str, plain: dict[str, Any]) -> None:
        """Take one line; a kind that this version does not know is passed over."""
        taker = self._takers.get(str(plain["kind"]))
        if taker is not None:
            taker(where, plain)

    def run(self, folder: Path, evaluation: Evaluation | None) -> RunRecord:
        """Everything taken so far."""
        if evaluation is not None and self._outdated(evaluation):
            evaluation = None
            self._notes.append(_OUTDATED)
        return RunRecord(
            folder=folder,
            header=self._header,
            references=self._references,
            trials=tuple(self._trials[number] for number in sorted(self._trials)),
            elapsed=self._elapsed,
            open_numbers=tuple(sorted(set(self._asked) - set(self._trials))),
            resumed=tuple(self._resumed),
            finalists=self._finalists,
            compared=self._compared,
            chosen=self._chosen,
            reported=self._reported_now(),
            evaluation=evaluation,
            forecast=self._costs.get("forecast"),
            spent=self._costs.get("spent"),
            notes=tuple(self._notes),
        )

    def _outdated(self, evaluation: Evaluation) -> bool:
        """Whether it is of another tailoring than the one chosen now."""
        if self._chosen is None or evaluation.tailoring is None:
            return False
        return evaluation.tailoring != self._trials[self._chosen.number].tailoring.digest

    def _reported_now(self) -> dict[str, Scores]:
        """Without the results that were chosen before, and then were not."""
        current = None if self._chosen is None else self._chosen.number
        return {
            name: scores
            for (name, number), scores in self._reported.items()
            if number in (None, current)
        }

    def _wanted(self, scores: Scores, where: str) -> Scores:
        """Refuse scores that lack a metric which the study is about."""
        for goal in self._header.goals:
            if goal.metric not in scores.tasks.get(goal.task, {}):
                raise RecordError(f"{where}: the scores lack {goal.metric} of task {goal.task!r}")
        return scores

    def _scores_or_failure(
        self, line: Reference | Finalist | Reported, where: str
    ) -> Scores | None:
        """The scores of a line, or None where it tells why there are none."""
        if line.scores is not None:
            return self._wanted(to_scores(line.scores), where)
        if line.failure is None:
            raise RecordError(f"{where}: scores: field required, or a failure")
        return None

    def _take_reference(self, where: str, plain: dict[str, Any]) -> None:
        line = _parsed(Reference, plain, where)
        scores = self._scores_or_failure(line, where)
        if scores is not None:
            self._references[line.member] = scores

    def _take_asked(self, where: str, plain: dict[str, Any]) -> None:
        for proposal in _parsed(Asked, plain, where).proposals:
            self._asked[proposal.number] = proposal

    def _take_trial(self, where: str, plain: dict[str, Any]) -> None:
        line = _parsed(TrialEntry, plain, where)
        asked = self._asked.get(line.number)
        if asked is None:
            raise RecordError(f"{where}: trial {line.number} was told, but never asked")
        if line.number in self._trials:
            raise RecordError(f"{where}: trial {line.number} stands twice")
        if (line.scores is None) == (line.failure is None):
            raise RecordError(f"{where}: trial {line.number} must have scores or a failure")
        try:
            tailoring = Tailoring.from_plain(asked.tailoring)
            tailoring.check(self._header.family.members, self._header.family.n_layers)
        except UserError as error:
            told = [f"{where}: trial {line.number}: {sentence}" for sentence in error.problems]
            raise RecordError(told) from None
        scores = None if line.scores is None else self._wanted(to_scores(line.scores), where)
        proposal = Proposal(tailoring, asked.n_examples, asked.origin)
        self._elapsed[line.number] = line.elapsed
        self._trials[line.number] = Trial(
            line.number, proposal, scores, line.failure, line.seconds, line.layer_tokens
        )

    def _take_costs(self, where: str, plain: dict[str, Any]) -> None:
        self._costs[plain["kind"]] = _parsed(Costs, plain, where)

    def _take_resumed(self, where: str, plain: dict[str, Any]) -> None:
        self._resumed.append(_parsed(Resumed, plain, where))

    def _take_finalist(self, where: str, plain: dict[str, Any]) -> None:
        line = _parsed(Finalist, plain, where)
        scores = self._scores_or_failure(line, where)
        if scores is None:
            return  # it failed on the selection split, and was not compared
        if line.number is not None:
            if line.number not in self._trials:
                raise RecordError(f"{where}: finalist {line.number} was never tried")
            self._finalists[line.number] = scores
        elif line.member is not None:
            self._compared[line.member] = scores

    def _take_chosen(self, where: str, plain: dict[str, Any]) -> None:
        line = _parsed(Chosen, plain, where)
        trial = self._trials.get(line.number)
        if trial is None or not trial.complete:
            raise RecordError(f"{where}: the chosen trial {line.number} was never scored")
        self._chosen = line

    def _take_reported(self, where: str, plain: dict[str, Any]) -> None:
        line = _parsed(Reported, plain, where)
        scores = self._scores_or_failure(line, where)
        if scores is not None:
            self._reported[line.name, line.number] = scores

    def _take_repaired(self, where: str, plain: dict[str, Any]) -> None:
        line = _parsed(Repaired, plain, where)
        self._notes.append(
            f"A line of {line.dropped_bytes:,} bytes, torn by a kill, was taken off the record "
            "when the study was started again; nothing that was scored was lost."
        )
