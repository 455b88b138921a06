"""The search loop: ask, record, evaluate, record, tell.

Searchers are deterministic, so a study that was killed is resumed by replaying its record: the
searcher gets the recorded trials again, and proposals without an outcome are evaluated. After the
search the best candidates are compared on the selection split, and the chosen one is scored on the
test split.
"""

import time
from collections.abc import Callable, Sequence

from gptailor.core.objective import Objective
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import GUARD, Job, Proposal, Scores, Trial
from gptailor.errors import RecordError
from gptailor.record.entries import (
    AskedEntry,
    AskedProposal,
    ForecastEntry,
    SlopeEntry,
    TrialEntry,
)
from gptailor.record.ranking import front_of, is_sized, ranked
from gptailor.searchers.searcher import FittedWhole, MakeSearcher, Searcher
from gptailor.study.coefficients import MeasureSlopes, fit_coefficients, fit_ended
from gptailor.study.failures import refuse_hopeless
from gptailor.study.guard import Guard, StudyJournal
from gptailor.study.plan import Plan, Progress, time_left
from gptailor.study.scorer import Scorer
from gptailor.study.selection import Refit, Selection
from gptailor.workers import WorkerPool

__all__ = ["Study", "StudyJournal"]

_LEAST_SECONDS = 1e-3  # that a step takes


class Study:
    """Run a plan, writing every step into a record before acting on it.

    Args:
        journal: The open record, its header written.
        pool: Where evaluations run.
        make_searcher: Makes the searcher, once the whole members are scored.
        plan: What is to be done.
        refit: Makes the repairs of a finalist; None for no repair.
        slopes: Measures slopes of the loss by merging coefficients; None where none are fitted.
        fitted: The model that an earlier search of the same ladder has fitted.
        on_chosen: Called with the study and the model chosen, before the test split is scored.
        on_progress: Called at every step.
        clock: The time in seconds.

    Raises:
        RecordError: The record has the outcome of a trial that was never asked, or has it twice.
    """

    def __init__(  # noqa: PLR0913  # its parts, and what it calls
        self,
        journal: StudyJournal,
        pool: WorkerPool,
        make_searcher: MakeSearcher,
        *,
        plan: Plan,
        refit: Refit | None = None,
        slopes: MeasureSlopes | None = None,
        fitted: FittedWhole | None = None,
        on_chosen: Callable[["Study", Tailoring], None] = lambda _study, _chosen: None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._journal, self._plan, self._scorer = journal, plan, Scorer(journal, pool, plan)
        self._make_searcher, self._on_progress, self._clock = make_searcher, on_progress, clock
        self._on_chosen, self._slopes, self._fitted = on_chosen, slopes, fitted
        self._guard: Guard | None = None
        if plan.guard:
            evaluate = self._scorer.evaluate
            self._guard = Guard(journal, evaluate, plan.n_layers, plan.sizes[GUARD])
        self._selection = Selection(journal, self._scorer, plan, self._guard, refit, self._show)
        self._asked: dict[int, Proposal] = {}
        self._recorded: dict[int, Trial] = {}
        self._known: dict[Tailoring, Scores] = {}  # on the most examples so far
        self._trials: list[Trial] = []
        self._best: Trial | None = None
        self._layer_tokens = 0
        self._started = self._clock()
        self._before = 0.0  # seconds of search in earlier starts
        self._fit_s = 0.0  # seconds of the fit of coefficients, over all starts
        self._expected_s: float | None = None  # of the whole study, as forecast
        self._objective: Objective | None = None
        self._read()
        self._n_replayed = len(self._recorded)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials of this start so far, replayed ones included, in order."""
        return tuple(self._trials)

    @property
    def objective(self) -> Objective:
        """How scores become losses; known once the base is scored."""
        assert self._objective is not None, "asked before the base was scored"
        return self._objective

    def front(self) -> list[Trial]:
        """The trials that no other beats on every task."""
        return front_of(self._trials, self.objective, self._plan.n_kept)

    def run(self) -> tuple[int, Tailoring]:
        """Search, choose, score on the test split; go on wherever an earlier start ended.

        Returns:
            The number of the chosen trial, and its tailoring, repaired.

        Raises:
            RecordError: The record can't be written or does not match this study; the base
                can't be scored; every trial failed; no candidate has the number of layers wanted.
        """
        plan, scorer = self._plan, self._scorer
        for forecast in self._journal.of(ForecastEntry):
            self._expected_s = forecast.seconds
        self._show("references")
        wholes = scorer.wholes("search", plan.rungs[-2:][0])  # a start is chosen by fewer examples
        wholes[BASE] = scorer.wholes("search", plan.rungs[-1])[BASE]  # losses are relative to it
        references = scorer.scores("reference", wholes)
        self._objective = Objective(plan.goals, references[BASE])
        members = {str(model): scores for model, scores in references.items()}
        fitted = self._fitted_whole()
        self._search(self._make_searcher(self._objective, members, fitted))
        self._show("selection")
        number, chosen = self._selection.choose(
            self._trials, self._ranked(self._trials), None if fitted is None else fitted.tailoring
        )
        self._on_chosen(self, chosen)
        self._show("test")
        n_examples = plan.sizes["test"]
        jobs = scorer.wholes("test", n_examples)
        jobs[number] = Job(chosen, n_examples, "test")
        if plan.tests_all:
            able = [trial for trial in self._trials if trial.complete]
            others: dict[str | int, Job] = {
                trial.number: Job(trial.tailoring, n_examples, "test") for trial in able
            }
            scorer.measured("test", others | jobs)
        scores = scorer.scores("test", jobs)
        if self._guard is not None:
            tested = {name: scores[name] for name in plan.members}
            self._guard.write_for_report(tested, plan.goals, number, chosen)
        self._show("done")
        return number, chosen

    def _fitted_whole(self) -> FittedWhole | None:
        """Fit the merging coefficients of the uncut model, or go on with that.

        A fit that was given up before the search began is not taken up again.
        """
        if self._fitted is not None:
            return self._fitted
        plan, recorded = self._plan, list(self._journal.of(SlopeEntry))
        slopes, n_steps = self._slopes, recorded[0].n_steps if recorded else plan.n_steps
        if slopes is None or not (fit_ended(recorded) or (plan.n_steps and not self._asked)):
            return None
        self._show("coefficients")

        def measure(tailoring: Tailoring, step: int) -> SlopeEntry:
            nonlocal n_steps
            entry = slopes(tailoring, step)
            if step == 0 and plan.timeout_s is not None:
                paid = plan.fit_part * plan.timeout_s / max(entry.seconds, _LEAST_SECONDS)
                n_steps = max(1, min(n_steps, int(paid)))
            entry = entry.model_copy(update={"n_steps": n_steps})
            self._journal.append(entry)
            self._layer_tokens += entry.layer_tokens
            self._fit_s += entry.seconds
            self._show("coefficients")
            return entry

        self._layer_tokens += sum(entry.layer_tokens for entry in recorded)
        variants, n_layers = plan.members[1:], plan.n_layers
        return fit_coefficients(measure, variants, n_layers=n_layers, recorded=recorded)

    def _read(self) -> None:
        """Take up what an earlier start recorded."""
        self._fit_s = sum(entry.seconds for entry in self._journal.of(SlopeEntry))
        for asked in self._journal.of(AskedEntry):
            self._asked |= {each.number: each.proposal for each in asked.proposals}
        for entry in self._journal.of(TrialEntry):
            if entry.number not in self._asked or entry.number in self._recorded:
                raise RecordError(
                    f"{self._journal.path}: trial {entry.number} was never asked for, or has two "
                    "outcomes; restore the file from a copy, or name a new folder"
                )
            self._recorded[entry.number] = entry.trial(self._asked[entry.number])
            self._before = max(self._before, entry.elapsed)
            self._layer_tokens += entry.layer_tokens

    def _elapsed(self) -> float:
        return self._before + self._clock() - self._started

    def _search(self, searcher: Searcher) -> None:
        self._started, self._scorer.n_examples = self._clock(), 0
        self._show("search")
        while not (self._trials and self._out_of_time()):
            proposals = searcher.ask()
            if not proposals:
                return
            first = len(self._trials)
            self._record_asked(first, proposals)
            trials = self._outcomes(range(first, first + len(proposals)))
            self._trials += trials
            if self._best is None:  # else something that could be chosen has scores
                refuse_hopeless(self._trials)
                refuse_hopeless([trial for trial in self._trials if self._is_sized(trial)])
            searcher.tell(trials)

    def _out_of_time(self) -> bool:
        """Whether the time is up; what is recorded is replayed in any case."""
        timeout_s, replayed = self._plan.timeout_s, len(self._trials) >= len(self._asked)
        return replayed and timeout_s is not None and self._fit_s + self._elapsed() >= timeout_s

    def _record_asked(self, first: int, proposals: Sequence[Proposal]) -> None:
        """Record what is asked; on a replay, compare it with what was recorded."""
        new = []
        for number, proposal in enumerate(proposals, start=first):
            if number not in self._asked:
                self._asked[number] = proposal
                new.append(AskedProposal.of(number, proposal))
            elif self._asked[number] != proposal:
                raise RecordError(
                    f"{self._journal.path}: the searcher now proposes another trial {number} than "
                    "was recorded: budget.max_trials or budget.layer_tokens, which it plans with, "
                    "or a library changed since; put it back, or name a new folder with --out"
                )
        if new:
            self._journal.append(AskedEntry(proposals=tuple(new)))

    def _outcomes(self, numbers: Sequence[int]) -> list[Trial]:
        """The trials of a group: from the record, or evaluated now and recorded one by one."""
        missing = [number for number in numbers if number not in self._recorded]
        asked = [self._asked[number] for number in missing]
        jobs = [Job.of(proposal, self._known.get(proposal.tailoring)) for proposal in asked]
        for number, done in zip(missing, self._scorer.evaluate(jobs), strict=True):
            entry = TrialEntry.of(number, done, self._elapsed())
            self._journal.append(entry)
            self._recorded[number] = entry.trial(self._asked[number])
            self._layer_tokens += done.layer_tokens
        trials = [self._recorded[number] for number in numbers]
        for trial in trials:
            self._note(trial)
        return trials

    def _note(self, trial: Trial) -> None:
        """Remember a trial's scores, which later rungs go on from, and the best so far."""
        if trial.scores is not None:
            known = self._known.get(trial.tailoring)
            if known is None or known.n_examples < trial.scores.n_examples:
                self._known[trial.tailoring] = trial.scores
        best = [] if self._best is None else [self._best]
        self._best = next(iter(self._ranked([*best, trial])), None)
        self._show("search", trial)

    def _ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        return ranked(trials, self.objective, self._plan.n_kept)

    def _is_sized(self, trial: Trial) -> bool:
        """Whether it has the number of layers wanted; a searcher may evaluate other sizes too."""
        return is_sized(trial.tailoring, self._plan.n_kept)

    def _show(self, phase: str, last: Trial | None = None) -> None:
        best, plan, elapsed, steps = None, self._plan, self._elapsed(), None
        if phase == "coefficients":
            slopes = list(self._journal.of(SlopeEntry))
            steps = len(slopes), slopes[0].n_steps if slopes else plan.n_steps
        if self._best is not None and self._best.scores is not None:
            scores = self._best.scores
            best = (self._best.number, self.objective.scalar(scores), scores.n_examples)
        # a group is evaluated before its first trial is shown: all of it counts
        share = len(self._recorded) / plan.max_trials
        if plan.layer_tokens is not None:
            share = max(share, self._layer_tokens / plan.layer_tokens)
        share = min(1.0, share)
        spent_s = self._fit_s + elapsed
        n_trials = len(self._trials) if last is None else last.number + 1
        left_s = time_left(share, spent_s, expected_s=self._expected_s, timeout_s=plan.timeout_s)
        self._on_progress(
            Progress(
                phase,
                max(n_trials, self._n_replayed),
                plan.max_trials,
                share=share,
                elapsed=elapsed,
                best=best,
                examples=self._scorer.n_examples,
                seconds=self._clock() - self._started,
                last=last,
                left_s=left_s,
                relative=self._objective is None or self._objective.is_relative,
                steps=steps,
            )
        )
