"""The search loop: ask, record, evaluate, record, tell.

Searchers are deterministic, so a study that was killed is resumed by replaying its record: the
searcher gets the recorded trials again, and proposals without an outcome are evaluated. After the
search the best candidates are compared on the selection split, and the chosen one is scored on the
test split.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from gptailor.core.objective import Objective
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import GUARD, Evaluation, Job, Proposal, Scores, Trial
from gptailor.errors import RecordError
from gptailor.record.entries import (
    AskedEntry,
    AskedProposal,
    ChosenEntry,
    ForecastEntry,
    ModelEntry,
    ModelKind,
    RefittedEntry,
    ResumedEntry,
    TrialEntry,
)
from gptailor.record.ranking import front_of, is_sized, ranked
from gptailor.searchers.searcher import MakeSearcher, Searcher
from gptailor.study.failures import nothing_to_choose, refuse_hopeless, usable
from gptailor.study.guard import Guard, StudyJournal
from gptailor.study.plan import Plan, Progress, time_left
from gptailor.study.racing import best_first, of_unlike_cuts, stages, still_racing
from gptailor.workers import WorkerPool

__all__ = ["Study", "StudyJournal"]

N_REFITTED = 2  # finalists at most, the best of unlike cuts, that are refitted on more tokens


class Study:
    """Run a plan, writing every step into a record before acting on it.

    Args:
        journal: The open record, its header written.
        pool: Where evaluations run.
        make_searcher: Makes the searcher, once the whole members are scored.
        plan: What is to be done.
        refit: Makes the repairs of a finalist, its number given; None for no repair.
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
        refit: Callable[[int, Tailoring], RefittedEntry] | None = None,
        on_chosen: Callable[["Study", Tailoring], None] = lambda _study, _chosen: None,
        on_progress: Callable[[Progress], None] = lambda _: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._journal, self._pool, self._plan = journal, pool, plan
        self._make_searcher, self._on_progress, self._clock = make_searcher, on_progress, clock
        self._refit, self._on_chosen = refit, on_chosen
        self._guard: Guard | None = None
        if plan.guard:
            self._guard = Guard(journal, self._evaluate, plan.n_layers, plan.sizes[GUARD])
        self._asked: dict[int, Proposal] = {}
        self._recorded: dict[int, Trial] = {}
        self._known: dict[Tailoring, Scores] = {}  # on the most examples so far
        self._trials: list[Trial] = []
        self._best: Trial | None = None
        self._examples = self._layer_tokens = 0
        self._started = self._clock()
        self._before = 0.0  # seconds of search in earlier starts
        self._expected_s: float | None = None  # of the whole study, as forecast
        self._objective: Objective | None = None
        # recorded at the first new evaluation; scores from other records cost nothing here
        self._resumed = any(entry.layer_tokens for entry in journal.of(ModelEntry))
        self._read()

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
        plan = self._plan
        for forecast in self._journal.of(ForecastEntry):
            self._expected_s = forecast.seconds
        self._show("references")
        wholes = self._wholes("search", plan.rungs[-2:][0])  # a start is chosen by fewer examples
        wholes[BASE] = self._wholes("search", plan.rungs[-1])[BASE]  # losses are relative to it
        references = self._scored("reference", wholes)
        self._objective = Objective(plan.goals, references[BASE])
        members = {str(model): scores for model, scores in references.items()}
        self._search(self._make_searcher(self._objective, members))
        self._show("selection")
        number, chosen = self._choose()
        self._on_chosen(self, chosen)
        self._show("test")
        n_examples = plan.sizes["test"]
        jobs = self._wholes("test", n_examples)
        jobs[number] = Job(chosen, n_examples, "test")
        if plan.tests_all:
            able = [trial for trial in self._trials if trial.complete]
            others: dict[str | int, Job] = {
                trial.number: Job(trial.tailoring, n_examples, "test") for trial in able
            }
            self._measured("test", others | jobs)
        scores = self._scored("test", jobs)
        if self._guard is not None:
            tested = {name: scores[name] for name in plan.members}
            self._guard.write_for_report(tested, plan.goals, number, chosen)
        self._show("done")
        return number, chosen

    def _read(self) -> None:
        """Take up what an earlier start recorded."""
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

    def _wholes(self, split: str, n_examples: int) -> dict[str | int, Job]:
        """The jobs of every whole member."""
        wholes = {name: Tailoring.whole(name, self._plan.n_layers) for name in self._plan.members}
        return {name: Job(whole, n_examples, split) for name, whole in wholes.items()}

    def _scored(self, kind: ModelKind, jobs: Mapping[str | int, Job]) -> dict[str | int, Scores]:
        """Scores of every job; an error where one of them can't be scored."""
        found = {}
        for model, entry in self._measured(kind, jobs).items():
            if entry.scores is None:
                name = model if isinstance(model, str) else f"trial {model}"
                kept = " (what was chosen is in the run's folder)" if kind == "test" else ""
                raise RecordError(f"{name} can't be scored: {entry.failure}{kept}")
            found[model] = entry.scores
        return found

    def _measured(
        self, kind: ModelKind, jobs: Mapping[str | int, Job]
    ) -> dict[str | int, ModelEntry]:
        """The entries of one kind: recorded scores, or new ones; what failed is tried again."""
        known: dict[str | int, ModelEntry] = {}
        for e in self._journal.of(ModelEntry, kind):  # of one model, those on fewer examples first
            wanted = jobs[e.model].n_examples if e.model in jobs else 0
            if e.scores is not None and e.scores.n_examples >= wanted:
                known.setdefault(e.model, e)
        missing = [model for model in jobs if model not in known]
        done = self._evaluate([jobs[model] for model in missing])
        for model, evaluation in zip(missing, done, strict=True):
            known[model] = ModelEntry.of(kind, model, evaluation)
            self._journal.append(known[model])
        return {model: known[model] for model in jobs}

    def _search(self, searcher: Searcher) -> None:
        self._started, self._examples = self._clock(), 0
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
        return replayed and timeout_s is not None and self._elapsed() >= timeout_s

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
        for number, done in zip(missing, self._evaluate(jobs), strict=True):
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

    def _choose(self) -> tuple[int, Tailoring]:
        """Compare the best candidates on the selection split: the trial chosen, and its model."""
        best: dict[Tailoring, Trial] = {}
        for trial in self._ranked(self._trials):
            best.setdefault(trial.tailoring, trial)
        if not best:
            raise nothing_to_choose(self._trials, self._plan.n_removed)
        n_examples = self._plan.sizes["selection"]
        whole = self._wholes("selection", n_examples)[BASE]
        base = self._scored("finalist", {BASE: whole})
        objective = Objective(self._plan.goals, base[BASE])
        finalists = {
            trial.number: trial.tailoring for trial in list(best.values())[: self._plan.finalists]
        }
        raced = self._raced("finalist", finalists, objective)
        if not raced:
            *_, last = self._journal.of(ModelEntry, "finalist")
            raise RecordError(
                f"{self._journal.path}: every finalist failed on the selection split; the last: "
                f"{last.failure}; mend that and run the same command again"
            )
        scores = self._speaking(raced, finalists, objective)
        order = best_first(scores, objective)
        models = {finalists[n]: (n, scores[n]) for n in order}
        if self._refit is not None:
            unlike = of_unlike_cuts(order, finalists, N_REFITTED)
            repairs = self._repairs({each: finalists[each] for each in unlike})
            models = {each.searched: (n, scores[n]) for n, each in repairs.items()}
            refits = {n: each.refitted for n, each in repairs.items() if each.refitted}
            refit_scores = self._raced("refitted", refits, objective)
            models |= {refits[n]: (n, each) for n, each in refit_scores.items()}
        ranked = best_first({model: each for model, (_, each) in models.items()}, objective)
        alive = (model for model in ranked if not self._is_dead(models[model][0], model))
        chosen = next(alive, ranked[0])
        number, found = models[chosen]
        compared = [*raced.values(), *(each for _, each in models.values())]
        cost = objective.scalar(found) - min(map(objective.scalar, compared))
        self._record_chosen(number, len(finalists), chosen, cost)
        return number, chosen

    def _speaking(
        self, raced: dict[int, Scores], finalists: Mapping[int, Tailoring], objective: Objective
    ) -> dict[int, Scores]:
        """Scores of finalists of which the best is not dead; those of all if all are."""
        scores, left = raced, dict(finalists)
        while self._is_dead(best := best_first(scores, objective)[0], left.pop(best)):
            if not left:
                return raced
            scores = self._raced("finalist", left, objective)
            if not scores:  # the others failed
                return raced
        return scores

    def _is_dead(self, number: int, tailoring: Tailoring) -> bool:
        return self._guard is not None and self._guard.is_dead(number, tailoring)

    def _raced(
        self, kind: ModelKind, tailorings: Mapping[int, Tailoring], objective: Objective
    ) -> dict[int, Scores]:
        """Scores on all selection examples of those that were neither stopped early nor failed."""
        left, scores = list(tailorings), dict[int, Scores]()
        for n_examples in stages(self._plan.sizes["selection"]):
            jobs: dict[str | int, Job] = {
                n: Job(tailorings[n], n_examples, "selection", scores.get(n)) for n in left
            }
            entries = self._measured(kind, jobs)
            found = {number: entries[number].scores for number in left}
            scores = {number: each for number, each in found.items() if each is not None}
            n_kept = 1 if self._refit is None else N_REFITTED
            left = still_racing(scores, objective, n_kept) if scores else []
        return scores

    def _repairs(self, tailorings: Mapping[int, Tailoring]) -> dict[int, RefittedEntry]:
        """The repairs of finalists: recorded ones, or new ones."""
        assert self._refit is not None, "asked for repairs of a study without one"
        known = {entry.number: entry for entry in self._journal.of(RefittedEntry)}
        for number, tailoring in tailorings.items():
            if number not in known:
                self._show("repair")
                known[number] = self._refit(number, tailoring)
                self._journal.append(known[number])
        self._show("selection")
        return {number: known[number] for number in tailorings}

    def _record_chosen(
        self, number: int, n_compared: int, tailoring: Tailoring, cost: float
    ) -> None:
        """Record the choice, unless the last entry says the same."""
        able = (t for t in self._trials if t.complete and self._is_sized(t))
        finalists = f"{n_compared} finalist{'' if n_compared == 1 else 's'}"
        chosen = ChosenEntry(
            number=number,
            n_tried=len({trial.tailoring for trial in able}),
            n_trials=len(self._trials),
            reason=f"best of {finalists} on examples the search did not see",
            **({} if self._guard is None else self._guard.verdict(tailoring, cost)),
            tailoring=None if self._refit is None else tailoring,
        )
        if [*self._journal.of(ChosenEntry)][-1:] != [chosen]:
            self._journal.append(chosen)

    def _evaluate(self, jobs: Sequence[Job]) -> Iterator[Evaluation]:
        """Run jobs in the pool and yield the evaluations one by one, as they come."""
        if not jobs:
            return
        if self._resumed:
            self._resumed = False
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            self._journal.append(ResumedEntry(time=now, elapsed=round(self._before, 3)))
        for job, evaluation in zip(jobs, self._pool.evaluate(jobs), strict=True):
            done = evaluation if job.split == GUARD else usable(evaluation, self._plan.goals)
            if done.scores is not None:
                known = 0 if job.known is None else job.known.total_examples
                self._examples += done.scores.total_examples - known
            yield done

    def _show(self, phase: str, last: Trial | None = None) -> None:
        best, plan, elapsed = None, self._plan, self._elapsed()
        if self._best is not None and self._best.scores is not None:
            scores = self._best.scores
            best = (self._best.number, self.objective.scalar(scores), scores.n_examples)
        # a group is evaluated before its first trial is shown: all of it counts
        share = len(self._recorded) / plan.max_trials
        if plan.layer_tokens is not None:
            share = max(share, self._layer_tokens / plan.layer_tokens)
        share = min(1.0, share)
        left_s = time_left(share, elapsed, expected_s=self._expected_s, timeout_s=plan.timeout_s)
        self._on_progress(
            Progress(
                phase,
                len(self._trials) if last is None else last.number + 1,
                plan.max_trials,
                share=share,
                elapsed=elapsed,
                best=best,
                examples=self._examples,
                seconds=self._clock() - self._started,
                last=last,
                left_s=left_s,
                relative=self._objective is None or self._objective.is_relative,
            )
        )
