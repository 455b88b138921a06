"""Read a run's folder: what was asked, scored, chosen and evaluated.

A study that is still going on, was killed, or has no complete trial is read as far as it goes; a
record that can't be used is refused with a sentence.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gptailor.core.objective import Goal, Objective
from gptailor.core.statistics import RESULT
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Proposal, Scores, Trial
from gptailor.errors import RecordError, UserError
from gptailor.record.entries import (
    AskedEntry,
    BaselineEntry,
    ChosenEntry,
    Entry,
    EntryT,
    ExplainedEntry,
    ForecastEntry,
    Header,
    ModelEntry,
    ModelKind,
    OwnTextsEntry,
    ProofEntry,
    RefittedEntry,
    ResumedEntry,
    SlopeEntry,
    SpentEntry,
    TrialEntry,
    TruncatedEntry,
    WrittenEntry,
    of_type,
)
from gptailor.record.evaluation_file import (
    EvaluationFile,
    SamplesFile,
    read_evaluation,
    read_samples,
)
from gptailor.record.journal import RECORD, read_record
from gptailor.record.ladder_folder import ladder_of
from gptailor.record.ranking import comparable, front_of, ranked

__all__ = ["RunRecord", "read_run", "run_of_lines"]

_TORN = "The last line of the record is not whole yet, or torn, and was left out."
_OUTDATED = "{}.json is of a model that was chosen before; run 'gptailor {}' again."


@dataclass(frozen=True)
class RunRecord:
    """What the record of one study says."""

    folder: Path  # the run's folder
    header: Header  # what the study is
    entries: tuple[Entry, ...]  # what follows the header, in order
    proposals: Mapping[int, Proposal]  # trial number to what was asked
    trials: tuple[Trial, ...]  # the finished trials by number, complete or failed
    # what ``gptailor evaluate`` and ``gptailor sample`` wrote; None where they have not been run
    evaluation: EvaluationFile | None
    samples: SamplesFile | None
    notes: tuple[str, ...]  # what was passed over in reading, one sentence each

    @cached_property
    def references(self) -> dict[str, Scores]:
        """Member to its scores on the search split."""
        return {str(model): scores for model, scores in self._models("reference").items()}

    @cached_property
    def on_selection(self) -> dict[str | int, Scores]:
        """Finalist's number, or ``base``, to its scores on all of the selection split.

        Finalists that were stopped on fewer examples are left out.
        """
        found = self._models("finalist")
        most = max((scores.n_examples for scores in found.values()), default=0)
        return {model: scores for model, scores in found.items() if scores.n_examples == most}

    @cached_property
    def on_test(self) -> dict[str | int, Scores]:
        """Chosen trial's number, or a member, to its scores on the test split."""
        found = of_type(self.entries, ModelEntry, "test")
        return {
            entry.model: entry.scores
            for entry in found
            if entry.scores is not None and self._is_of_result(entry)
        }

    def _is_of_result(self, entry: ModelEntry) -> bool:
        """Whether a member was scored, or a trial with the repair that it was chosen with."""
        if entry.number is None or entry.tailoring is None:
            return True
        return entry.tailoring == self.tailoring_of(entry.number).digest

    def _models(self, kind: ModelKind) -> dict[str | int, Scores]:
        found = of_type(self.entries, ModelEntry, kind)
        return {entry.model: entry.scores for entry in found if entry.scores is not None}

    def _of(self, entry_type: type[EntryT]) -> list[EntryT]:
        return list(of_type(self.entries, entry_type))

    @property
    def own_texts(self) -> OwnTextsEntry | None:
        """What a whole member wrote; None where no candidate is compared with it."""
        return next(iter(self._of(OwnTextsEntry)), None)

    @property
    def written(self) -> dict[str, Scores]:
        """Member, or ``result``, to its scores on greedy text; those of this result alone."""
        result = None if self.result is None else self.result.digest
        return {
            RESULT if entry.member is None else entry.member: entry.scores
            for entry in self._of(WrittenEntry)
            if entry.scores is not None and (entry.member or entry.tailoring == result)
        }

    @cached_property
    def elapsed(self) -> dict[int, float]:
        """Trial number to seconds of search when it was recorded."""
        return {entry.number: entry.elapsed for entry in self._of(TrialEntry)}

    @property
    def resumed(self) -> list[ResumedEntry]:
        """One entry a restart."""
        return self._of(ResumedEntry)

    @property
    def slopes(self) -> list[SlopeEntry]:
        """One entry a step in which merging coefficients were fitted."""
        return self._of(SlopeEntry)

    @property
    def baselines(self) -> dict[str, BaselineEntry]:
        """Name to the outcome of a baseline; empty for a search."""
        return {entry.name: entry for entry in self._of(BaselineEntry)}

    @property
    def chosen(self) -> ChosenEntry | None:
        """The last choice; None where the study has not ended."""
        return next(reversed(self._of(ChosenEntry)), None)

    @property
    def forecast(self) -> ForecastEntry | None:
        """What the study was expected to cost; None where other processes evaluated."""
        return next(reversed(self._of(ForecastEntry)), None)

    @property
    def spent(self) -> SpentEntry | None:
        """What it cost, over all starts; None before it came to an end."""
        return next(reversed(self._of(SpentEntry)), None)

    @property
    def proof(self) -> ProofEntry | None:
        """How the result meets a target; None without one, or before it was measured."""
        digest = None if self.result is None else self.result.digest
        return next((e for e in self._of(ProofEntry) if e.tailoring == digest), None)

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What was wanted, one a task."""
        return self.header.goals

    @cached_property
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

    @cached_property
    def able(self) -> tuple[Trial, ...]:
        """Complete trials of the size wanted, on the most examples that any of them has."""
        return tuple(comparable(self.trials, self.header.n_kept))

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
    def result(self) -> Tailoring | None:
        """The chosen tailoring, its repair included; None where the study has not ended."""
        return None if self.chosen is None else self.tailoring_of(self.chosen.number)

    def tailoring_of(self, number: int) -> Tailoring:
        """The tailoring of a trial; if it was chosen, with the repair that it was chosen with."""
        if self.chosen is not None and self.chosen.number == number and self.chosen.tailoring:
            return self.chosen.tailoring
        return self.proposals[number].tailoring

    @property
    def explained(self) -> list[ExplainedEntry]:
        """The result with one layer changed, by `gptailor explain`; those of this result alone."""
        digest = None if self.result is None else self.result.digest
        return [entry for entry in self._of(ExplainedEntry) if entry.result == digest]

    @property
    def test_scores(self) -> dict[str, Scores]:
        """Member, or ``result``, to its scores on the test split."""
        return self.with_result(self.on_test)

    def with_result(self, models: Mapping[str | int, Scores]) -> dict[str, Scores]:
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
    """Read ``record.jsonl`` and, where wanted and there, ``evaluation.json`` and ``samples.json``.

    Raises:
        RecordError: The folder, the record or the evaluation can't be used.
    """
    if not folder.is_dir():
        raise RecordError(f"{folder}: no such folder; name the one that 'gptailor search' wrote")
    if runs := ladder_of(folder):
        raise RecordError(
            f"{folder}: is a depth ladder; name one of its runs: {next(iter(runs.values()))}"
        )
    lines = read_record(folder / RECORD)
    return run_of_lines(folder, lines, with_evaluation=with_evaluation)


def run_of_lines(
    folder: Path, lines: Sequence[tuple[int, Entry]], *, with_evaluation: bool = True
) -> RunRecord:
    """As `read_run`, of lines that `read_record` returned."""
    path = folder / RECORD
    if not lines or not isinstance(header := lines[0][1], Header):
        if b"\n" in path.read_bytes():  # else it ended before its header did
            raise RecordError(
                f"{path}: is no record of a run, for it does not begin with a header; name the "
                "folder of a run"
            )
        raise RecordError(f"{path}: the record is empty; run 'gptailor search' again")
    proposals: dict[int, Proposal] = {}
    trials: dict[int, Trial] = {}
    for number, entry in lines[1:]:
        try:
            _check(entry, header, proposals, trials)
        except UserError as error:
            raise RecordError([f"{path}, line {number}: {p}" for p in error.problems]) from None
    entries = tuple(entry for _, entry in lines[1:])
    notes = [] if path.read_bytes().endswith(b"\n") else [_TORN]
    notes += [
        f"A line of {entry.dropped_bytes:,} bytes, torn by a kill, was taken off the record when "
        "the study was started again; nothing that was scored was lost."
        for entry in of_type(entries, TruncatedEntry)
    ]
    in_order = tuple(trials[number] for number in sorted(trials))
    record = RunRecord(folder, header, entries, proposals, in_order, None, None, tuple(notes))
    if not with_evaluation:
        return record
    digest = None if record.result is None else record.result.digest
    evaluation, samples = read_evaluation(folder), read_samples(folder)
    if evaluation and digest and evaluation.tailoring not in (None, digest):
        evaluation, notes = None, [*notes, _OUTDATED.format("evaluation", "evaluate")]
    if samples and samples.tailoring != digest:
        samples, notes = None, [*notes, _OUTDATED.format("samples", "sample")]
    return dataclasses.replace(record, evaluation=evaluation, samples=samples, notes=tuple(notes))


def _check(
    entry: Entry, header: Header, proposals: dict[int, Proposal], trials: dict[int, Trial]
) -> None:
    """Check an entry against those before it; add what it says to proposals and trials."""
    if isinstance(entry, TrialEntry | ModelEntry | ExplainedEntry) and entry.scores is not None:
        _check_scores(entry.scores, header)
    for tailoring in _tailorings(entry):
        tailoring.check(header.family.members, header.family.n_layers)
    match entry:
        case AskedEntry():
            proposals |= {asked.number: asked.proposal for asked in entry.proposals}
        case TrialEntry(number=number):
            if number not in proposals:
                raise RecordError(f"trial {number} has an outcome, but was never asked")
            if number in trials:
                raise RecordError(f"trial {number} has two outcomes")
            trials[number] = entry.trial(proposals[number])
        case (
            ModelEntry(number=int(number))
            | WrittenEntry(number=int(number))
            | RefittedEntry(number=number)
        ) if number not in trials:
            raise RecordError(f"trial {number} was never evaluated")
        case ChosenEntry(number=number) if number not in trials or not trials[number].complete:
            raise RecordError(f"the chosen trial {number} was never scored")


def _tailorings(entry: Entry) -> list[Tailoring]:
    """Every tailoring that an entry names."""
    match entry:
        case AskedEntry():
            return [asked.tailoring for asked in entry.proposals]
        case BaselineEntry(tailoring=Tailoring() as tailoring):
            return [tailoring]
        case ChosenEntry(tailoring=Tailoring() as tailoring):
            return [tailoring]
        case ExplainedEntry(tailoring=tailoring):
            return [tailoring]
        case RefittedEntry():
            models = (entry.searched, entry.refitted)
            return [each for each in models if each is not None]
    return []


def _check_scores(scores: Scores, header: Header) -> None:
    """Refuse scores that lack a metric which the study is about."""
    for goal in header.goals:
        for metric in (goal.metric, goal.proxy or goal.metric):
            if metric not in scores.tasks.get(goal.task, {}):
                raise RecordError(f"the scores lack {metric} of task {goal.task!r}")
