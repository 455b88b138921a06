"""Read a run's folder: what was asked, scored, chosen and evaluated.

A study that is still going on, was killed, or has no complete trial is read as far as it goes; a
record that can't be used is refused with a sentence.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from gptailor.core.objective import Goal, Objective
from gptailor.core.score_table import RESULT
from gptailor.core.tailoring import BASE
from gptailor.core.trial import Proposal, Scores, Trial
from gptailor.errors import RecordError, UserError
from gptailor.files.safe_read import read_plain
from gptailor.record.entries import (
    EVALUATION_FORMAT,
    AskedEntry,
    ChosenEntry,
    CostEntry,
    Entry,
    EvaluationFile,
    Header,
    ModelEntry,
    RepairedEntry,
    ResumedEntry,
    TrialEntry,
)
from gptailor.record.fields import first_problem
from gptailor.record.journal import RECORD, read_record
from gptailor.record.ranking import front_of, ranked

__all__ = ["EVALUATION", "RunRecord", "read_run"]

EVALUATION = "evaluation.json"
_MOST = 2**30  # bytes of an evaluation: a hundred tasks with all their examples
_TORN = "The last line of the record is not whole yet, or torn, and was left out."
_OUTDATED = "evaluation.json is of a model that was chosen before; run 'gptailor evaluate' again."


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What the record of one study says.

    Args:
        folder: The run's folder.
        header: What the study is.
        references: Member to its scores on the search split.
        proposals: Trial number to what was asked.
        trials: The finished trials by number, complete or failed.
        elapsed: Trial number to seconds of search when it was recorded.
        resumed: One entry a restart.
        on_selection: Finalist's number, or ``base``, to its scores on the selection split.
        on_test: Chosen trial's number, or a member, to its scores on the test split.
        chosen: The pick; None where the study has not ended.
        evaluation: What ``gptailor evaluate`` wrote; None where it has not been run.
        forecast: What the study was to cost; None where other processes evaluated.
        spent: What it cost in the end, over all starts; None before it came to an end.
        notes: What was passed over in reading, one sentence each.
    """

    folder: Path
    header: Header
    references: Mapping[str, Scores] = field(default_factory=dict)
    proposals: Mapping[int, Proposal] = field(default_factory=dict)
    trials: tuple[Trial, ...] = ()
    elapsed: Mapping[int, float] = field(default_factory=dict)
    resumed: tuple[ResumedEntry, ...] = ()
    on_selection: Mapping[str | int, Scores] = field(default_factory=dict)
    on_test: Mapping[str | int, Scores] = field(default_factory=dict)
    chosen: ChosenEntry | None = None
    evaluation: EvaluationFile | None = None
    forecast: CostEntry | None = None
    spent: CostEntry | None = None
    notes: tuple[str, ...] = ()

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What was wanted, one a task."""
        return tuple(
            Goal(goal.task, goal.metric, goal.weight, goal.proxy) for goal in self.header.goals
        )

    @property
    def rank_metrics(self) -> tuple[str, ...]:
        """The continuous metrics that rank candidates on few examples."""
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
    def open_numbers(self) -> tuple[int, ...]:
        """Trials that were asked and have no outcome yet."""
        return tuple(sorted(set(self.proposals) - {trial.number for trial in self.trials}))

    @property
    def able(self) -> tuple[Trial, ...]:
        """Complete trials of the size wanted, on the most examples that any of them has."""
        sized = [t for t in self.complete if len(t.tailoring.layers) == self.header.n_kept]
        most = max((trial.proposal.n_examples for trial in sized), default=0)
        return tuple(trial for trial in sized if trial.proposal.n_examples == most)

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats on every task; see `front_of`."""
        if self.objective is None:
            return ()
        return tuple(front_of(self.trials, self.objective, self.header.n_kept))

    @property
    def chosen_trial(self) -> Trial | None:
        """The chosen trial; None where the study has not ended."""
        if self.chosen is None:
            return None
        return next(trial for trial in self.trials if trial.number == self.chosen.number)

    @property
    def selection_scores(self) -> dict[str, Scores]:
        """``base`` and ``result`` to their scores on the selection split."""
        return self._with_result(self.on_selection)

    @property
    def test_scores(self) -> dict[str, Scores]:
        """Member, or ``result``, to its scores on the test split."""
        return self._with_result(self.on_test)

    def _with_result(self, models: Mapping[str | int, Scores]) -> dict[str, Scores]:
        """The members and the chosen trial's candidate, which is called ``result``."""
        named = {name: scores for name, scores in models.items() if isinstance(name, str)}
        if self.chosen is not None and self.chosen.number in models:
            named[RESULT] = models[self.chosen.number]
        return named

    @property
    def best_trial(self) -> Trial | None:
        """The chosen trial, else the best so far; None before any could be chosen."""
        objective = self.objective
        if self.chosen is not None or objective is None:
            return self.chosen_trial
        return next(iter(ranked(self.able, objective, self.header.n_kept)), None)


def read_run(folder: Path, *, with_evaluation: bool = True) -> RunRecord:
    """Read ``record.jsonl`` and, where there is one, ``evaluation.json``.

    Args:
        folder: The folder that ``gptailor search`` wrote.
        with_evaluation: Whether to read ``evaluation.json``.

    Raises:
        RecordError: The folder, the record or the evaluation can't be used.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder; name the one that 'gptailor search' wrote")
    path = folder / RECORD
    lines = read_record(path)
    if not lines or not isinstance(header := lines[0][1], Header):
        raise RecordError(f"{path}: the record is empty; run 'gptailor search' again")
    reader = _Reader(header)
    for number, entry in lines[1:]:
        try:
            reader.add(entry)
        except UserError as error:
            raise RecordError([f"{path}, line {number}: {p}" for p in error.problems]) from None
    notes = [*([] if _ends_whole(path) else [_TORN]), *reader.notes]
    evaluation = _read_evaluation(folder / EVALUATION) if with_evaluation else None
    if evaluation is not None and reader.is_outdated(evaluation):
        evaluation = None
        notes.append(_OUTDATED)
    return RunRecord(
        folder=folder,
        header=header,
        references={str(name): scores for name, scores in reader.models["reference"].items()},
        proposals=reader.proposals,
        trials=tuple(reader.trials[number] for number in sorted(reader.trials)),
        elapsed=reader.elapsed,
        resumed=tuple(reader.resumed),
        on_selection=reader.models["finalist"],
        on_test=reader.models["test"],
        chosen=reader.chosen,
        evaluation=evaluation,
        forecast=reader.costs.get("forecast"),
        spent=reader.costs.get("spent"),
        notes=tuple(notes),
    )


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _read_evaluation(path: Path) -> EvaluationFile | None:
    if not path.exists():
        return None
    again = "run 'gptailor evaluate' again, or remove the file"
    text = read_plain(
        path, most=_MOST, noun="file that 'gptailor evaluate' wrote", error_type=RecordError
    )
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError):
        raise RecordError(f"{path}: not usable as JSON; {again}") from None
    found = plain.get("format") if isinstance(plain, dict) else None
    if found != EVALUATION_FORMAT:
        raise RecordError(f"{path}: format must be {EVALUATION_FORMAT!r}, not {found!r}; {again}")
    try:
        return EvaluationFile.model_validate(plain)
    except ValidationError as error:
        raise RecordError(f"{path}: {first_problem(error)}; {again}") from None


class _Reader:
    """Collects entries in order and checks them against each other."""

    def __init__(self, header: Header) -> None:
        self._header = header
        self.proposals: dict[int, Proposal] = {}
        self.trials: dict[int, Trial] = {}
        self.elapsed: dict[int, float] = {}
        self.models: dict[str, dict[str | int, Scores]] = {
            "reference": {},
            "finalist": {},
            "test": {},
        }
        self.resumed: list[ResumedEntry] = []
        self.chosen: ChosenEntry | None = None
        self.costs: dict[str, CostEntry] = {}
        self.notes: list[str] = []

    def add(self, entry: Entry) -> None:
        """Add one entry.

        Raises:
            UserError: It contradicts the header or an earlier entry.
        """
        match entry:
            case AskedEntry():
                self._add_asked(entry)
            case TrialEntry():
                self._add_trial(entry)
            case ModelEntry():
                self._add_model(entry)
            case ChosenEntry():
                trial = self.trials.get(entry.number)
                if trial is None or not trial.complete:
                    raise RecordError(f"the chosen trial {entry.number} was never scored")
                self.chosen = entry
            case CostEntry():
                self.costs[entry.kind] = entry
            case ResumedEntry():
                self.resumed.append(entry)
            case RepairedEntry():
                self.notes.append(
                    f"A line of {entry.dropped_bytes:,} bytes, torn by a kill, was taken off the "
                    "record when the study was started again; nothing that was scored was lost."
                )

    def is_outdated(self, evaluation: EvaluationFile) -> bool:
        """Whether an evaluation is of another tailoring than the one chosen last."""
        if self.chosen is None or evaluation.tailoring is None:
            return False
        return evaluation.tailoring != self.trials[self.chosen.number].tailoring.digest

    def _add_asked(self, entry: AskedEntry) -> None:
        family = self._header.family
        for asked in entry.proposals:
            asked.tailoring.check(family.members, family.n_layers)
            self.proposals[asked.number] = asked.proposal

    def _add_trial(self, entry: TrialEntry) -> None:
        number = entry.number
        if number not in self.proposals:
            raise RecordError(f"trial {number} has an outcome, but was never asked")
        if number in self.trials:
            raise RecordError(f"trial {number} has two outcomes")
        self._check_scores(entry.scores)
        self.elapsed[number] = entry.elapsed
        self.trials[number] = Trial(number, self.proposals[number], entry.evaluation)

    def _add_model(self, entry: ModelEntry) -> None:
        if entry.number is not None and entry.number not in self.trials:
            raise RecordError(f"trial {entry.number} was never evaluated")
        self._check_scores(entry.scores)
        if entry.scores is not None:  # else it failed, and is tried again at the next start
            self.models[entry.kind][entry.model] = entry.scores

    def _check_scores(self, scores: Scores | None) -> None:
        """Refuse scores that lack a metric which the study is about."""
        if scores is None:
            return
        for goal in self._header.goals:
            for metric in (goal.metric, goal.proxy or goal.metric):
                if metric not in scores.tasks.get(goal.task, {}):
                    raise RecordError(f"the scores lack {metric} of task {goal.task!r}")
