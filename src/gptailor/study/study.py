"""The loop: ask, write down, evaluate, write down, tell. It exists once, here.

Searchers are pure, so a study that was killed goes on by replaying its record: what was told is
told again, what was asked and not answered is evaluated. After the search, the best candidates are
compared on examples that it did not see, and the winner is scored on a third split. Knows
nothing of models, tasks or where evaluations run.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gptailor.core.objective import Objective
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Evaluation, Job, Proposal, Scores, Trial
from gptailor.errors import RecordError
from gptailor.record.journal import Journal
from gptailor.record.ranking import front_of, ranked
from gptailor.searchers.searcher import Searcher
from gptailor.study.plan import Plan, Progress
from gptailor.study.stopping import nothing_to_choose, out_of_time, refuse_hopeless
from gptailor.workers import WorkerPool

__all__ = ["Study"]


class Study:
    """Run a plan, writing every step into a record before acting on it.

    Args:
        journal: The open record, its header written.
        pool: Where evaluations run.
        make_searcher: Makes the searcher, once the base's scores are known.
        plan: What is to be done.
        on_progress: Told of every step; draws nothing itself.
    """

    def __init__(
        self,
        journal: Journal,
        pool: WorkerPool,
        make_searcher: Callable[[Objective], Searcher],
        *,
        plan: Plan,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._journal, self._pool, self._plan = journal, pool, plan
        self._make_searcher, self._on_progress = make_searcher, on_progress
        self._asked: dict[int, Proposal] = {}
        self._recorded: dict[int, Trial] = {}
        self._known: dict[Tailoring, Scores] = {}
        self._trials: list[Trial] = []
        self._best: tuple[int, float, int] | None = None
        self._examples = 0
        self._started = time.perf_counter()
        self._before = 0.0
        self._objective: Objective | None = None
        self._resumed = any(True for _ in journal.of("reference"))  # told when it does something
        self._read()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial told so far, in order."""
        return tuple(self._trials)

    @property
    def objective(self) -> Objective:
        """How scores become losses; known once the base is scored."""
        assert self._objective is not None, "asked before the base was scored"
        return self._objective

    def front(self) -> list[Trial]:
        """The trials that no other beats on every task."""
        n_kept = self._plan.n_layers - self._plan.n_removed
        return front_of(self._trials, self.objective, n_kept)

    def run(self) -> Trial:
        """Search, choose, score on the test split; go on wherever an earlier start ended.

        Returns:
            The chosen trial.

        Raises:
            RecordError: The record can't be written or does not go with this study; the base
                can't be scored; every trial failed; no candidate has the number of layers wanted.
        """
        self._tell_progress("references")
        objective = self._objective = Objective(self._plan.goals, self._references()[BASE])
        self._search(self._make_searcher(objective))
        self._tell_progress("selection")
        chosen = self._choose()
        self._tell_progress("test")
        self._report(chosen)
        self._tell_progress("done")
        return chosen

    def _read(self) -> None:
        """Take up what an earlier start recorded."""
        entries = self._journal.entries  # from the disk, once
        for entry in (one for one in entries if one["kind"] == "asked"):
            for plain in entry["proposals"]:
                self._asked[int(plain["number"])] = Proposal.from_plain(plain)
        for entry in (one for one in entries if one["kind"] == "trial"):
            number = int(entry["number"])
            if number not in self._asked or number in self._recorded:
                raise RecordError(
                    f"{self._journal.path}: trial {number} was never asked for, or stands twice; "
                    "restore the file from a copy, or name a new folder"
                )
            self._recorded[number] = _told(self._asked[number], entry)
            self._before = max(self._before, float(entry["elapsed"]))

    def _elapsed(self) -> float:
        return self._before + time.perf_counter() - self._started

    def _references(self) -> dict[str, Scores]:
        """Scores of every whole member on all the search examples."""
        n_examples = self._plan.rungs[-1]
        wanted = [
            ({"member": member}, self._whole(member, "search", n_examples))
            for member in self._plan.members
        ]
        return dict(zip(self._plan.members, self._scored("reference", wanted), strict=True))

    def _scored(self, kind: str, wanted: Sequence[tuple[dict[str, Any], Job]]) -> list[Scores]:
        """Scores that must be had: from the record, or measured now and recorded.

        Args:
            kind: Of the entries.
            wanted: What names each in the record, and what is to be evaluated.

        Raises:
            RecordError: One of them can't be scored.
        """
        scores = []
        for (fields, _), entry in zip(wanted, self._measured(kind, wanted), strict=True):
            if "failure" in entry:
                told = " ".join(str(value) for value in fields.values())
                raise RecordError(f"{told} can't be scored: {entry['failure']}")
            scores.append(Scores.from_plain(entry["scores"]))
        return scores

    def _measured(
        self, kind: str, wanted: Sequence[tuple[dict[str, Any], Job]]
    ) -> list[dict[str, Any]]:
        """The entries of one kind, each with scores or a failure; what fails is tried anew."""
        known = {_name(entry): entry for entry in self._journal.of(kind) if "scores" in entry}
        missing = [(fields, job) for fields, job in wanted if _name(fields) not in known]
        done = self._evaluate([job for _, job in missing])
        for (fields, _), evaluation in zip(missing, done, strict=True):
            told: dict[str, Any] = {"failure": evaluation.failure}
            if evaluation.scores is not None:
                told = {"scores": evaluation.scores.to_plain()}
            told |= {
                "seconds": round(evaluation.seconds, 4),
                "layer_tokens": evaluation.layer_tokens,
            }
            known[_name(fields)] = self._journal.append(kind, **fields, **told)
        return [known[_name(fields)] for fields, _ in wanted]

    def _search(self, searcher: Searcher) -> None:
        self._started, self._examples = time.perf_counter(), 0
        while True:
            if self._trials and self._stops():
                return
            proposals = searcher.ask()
            if not proposals:
                return
            first = len(self._trials)
            group = self._written(first, proposals)
            trials = self._answered(first, group)
            self._trials += trials
            refuse_hopeless(self._trials)
            refuse_hopeless([trial for trial in self._trials if self._could_be_chosen(trial)])
            searcher.tell(trials)

    def _stops(self) -> bool:
        """Whether time is up; what is recorded is replayed in any case."""
        replayed = len(self._trials) >= len(self._asked)
        return replayed and out_of_time(self._elapsed(), self._plan.timeout_s)

    def _written(self, first: int, proposals: Sequence[Proposal]) -> Sequence[Proposal]:
        """Write down what is asked for; on a replay, hold it against what was written."""
        new = []
        for number, proposal in enumerate(proposals, start=first):
            before = self._asked.get(number)
            if before is None:
                self._asked[number] = proposal
                new.append({"number": number, **proposal.to_plain()})
            elif before != proposal:
                raise RecordError(
                    f"{self._journal.path}: the searcher now proposes another trial {number} than "
                    "was recorded: budget.max_trials, which it plans with, or a library changed "
                    "since; put it back, or name a new folder with --out"
                )
        if new:
            self._journal.append("asked", proposals=new)
        return proposals

    def _answered(self, first: int, proposals: Sequence[Proposal]) -> list[Trial]:
        """The trials of a group: from the record, or evaluated now and recorded one by one."""
        numbers = range(first, first + len(proposals))
        missing = [number for number in numbers if number not in self._recorded]
        asked = [self._asked[number] for number in missing]
        jobs = [Job.of(proposal, self._known.get(proposal.tailoring)) for proposal in asked]
        for number, done in zip(missing, self._evaluate(jobs), strict=True):
            trial = Trial(
                number,
                self._asked[number],
                scores=done.scores,
                failure=done.failure,
                seconds=done.seconds,
                layer_tokens=done.layer_tokens,
            )
            plain = trial.to_plain()
            told = {key: plain[key] for key in ("number", "seconds", "layer_tokens")}
            told |= {key: plain[key] for key in ("scores", "failure") if key in plain}
            entry = self._journal.append("trial", **told, elapsed=round(self._elapsed(), 3))
            self._recorded[number] = _told(trial.proposal, entry)
        trials = [self._recorded[number] for number in numbers]
        for trial in trials:
            self._note(trial)
        return trials

    def _note(self, trial: Trial) -> None:
        """Remember scores to go on from, and the best so far."""
        if trial.scores is not None:
            known = self._known.get(trial.tailoring)
            if known is None or known.n_examples < trial.scores.n_examples:
                self._known[trial.tailoring] = trial.scores
        ranked = self._ranked(
            [*([] if self._best is None else [self._recorded[self._best[0]]]), trial]
        )
        if ranked and ranked[0].scores is not None:
            scores = ranked[0].scores
            self._best = (ranked[0].number, self.objective.scalar(scores), scores.n_examples)
        self._tell_progress("search", trial)

    def _ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        return ranked(trials, self.objective, self._plan.n_layers - self._plan.n_removed)

    def _could_be_chosen(self, trial: Trial) -> bool:
        """Whether as many layers are cut as are to be cut; searchers may probe others too."""
        return len(trial.tailoring.layers) == self._plan.n_layers - self._plan.n_removed

    def _choose(self) -> Trial:
        """Compare the best candidates on examples that the search did not score."""
        finalists: dict[Tailoring, Trial] = {}
        for trial in self._ranked(self._trials):
            finalists.setdefault(trial.tailoring, trial)
        if not finalists:
            raise nothing_to_choose(self._trials, self._plan.n_removed)
        best = list(finalists.values())[: self._plan.finalists]
        n_examples = self._plan.sizes["selection"]
        whole = self._whole(BASE, "selection", n_examples)
        (reference,) = self._scored("finalist", [({"member": BASE}, whole)])
        objective = Objective(self._plan.goals, reference)
        entries = self._measured(
            "finalist",
            [({"number": t.number}, Job(t.tailoring, n_examples, "selection")) for t in best],
        )
        compared = [
            (int(entry["number"]), Scores.from_plain(entry["scores"]))
            for entry in entries
            if "scores" in entry
        ]
        if not compared:
            raise RecordError(
                f"{self._journal.path}: every finalist failed on the selection split; the last: "
                f"{entries[-1]['failure']}; mend that and run the same command again"
            )
        number = min(
            (objective.scalar(told), objective.scalar(told, proxy=True), number)
            for number, told in compared
        )[2]
        facts = (number, self._n_tried(), len(self._trials))
        told = [(e["number"], e["n_tried"], e["n_trials"]) for e in self._journal.of("chosen")]
        if told[-1:] != [facts]:
            reason = f"lowest loss of {len(compared)} finalists on examples the search did not see"
            self._journal.append(
                "chosen",
                number=number,
                n_tried=self._n_tried(),
                n_trials=len(self._trials),
                reason=reason,
            )
        return self._recorded[number]

    def _n_tried(self) -> int:
        """Distinct candidates that could have been chosen."""
        able = (t for t in self._trials if t.complete and self._could_be_chosen(t))
        return len({trial.tailoring for trial in able})

    def _report(self, chosen: Trial) -> None:
        """Score members and result on the split that nothing else has seen."""
        n_examples = self._plan.sizes["test"]
        wanted: list[tuple[dict[str, Any], Job]] = [
            ({"name": member}, self._whole(member, "test", n_examples))
            for member in self._plan.members
        ]
        job = Job(chosen.tailoring, n_examples, "test")
        self._scored("reported", [*wanted, ({"name": "result", "number": chosen.number}, job)])

    def _whole(self, member: str, split: str, n_examples: int) -> Job:
        return Job(Tailoring.whole(member, self._plan.n_layers), n_examples, split)

    def _evaluate(self, jobs: Sequence[Job]) -> Iterator[Evaluation]:
        """Hand jobs to the pool and its evaluations on, one by one, as they come."""
        if not jobs:
            return
        if self._resumed:
            self._resumed = False
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            self._journal.append("resumed", time=now, elapsed=round(self._before, 3))
        for job, told in zip(jobs, self._pool.evaluate(jobs), strict=True):
            done = self._usable(told)
            if done.scores is not None:
                known = 0 if job.known is None else job.known.total_examples
                self._examples += done.scores.total_examples - known
            yield done

    def _usable(self, done: Evaluation) -> Evaluation:
        """A failure instead of scores that no loss can be made of."""
        if done.scores is None:
            return done
        for goal in self._plan.goals:
            for metric in (goal.measured(proxy=False), goal.measured(proxy=True)):
                if not math.isfinite(done.scores.value(goal.task, metric)):
                    failure = f"the {metric} of task {goal.task!r} is too large for a number"
                    return dataclasses.replace(done, scores=None, failure=failure)
        return done

    def _tell_progress(self, phase: str, last: Trial | None = None) -> None:
        now = time.perf_counter() - self._started
        n_trials = len(self._trials) if last is None else last.number + 1
        self._on_progress(
            Progress(
                phase,
                n_trials,
                self._plan.max_trials,
                elapsed=self._elapsed(),
                best=self._best,
                examples=self._examples,
                seconds=now,
                last=last,
                timeout_s=self._plan.timeout_s,
            )
        )


def _told(proposal: Proposal, entry: dict[str, Any]) -> Trial:
    """The trial that an entry tells, with the proposal itself and not another like it."""
    return dataclasses.replace(Trial.from_plain(proposal.to_plain() | entry), proposal=proposal)


def _name(entry: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What tells the entries of one kind apart."""
    return tuple((key, entry[key]) for key in ("member", "number", "name") if key in entry)
