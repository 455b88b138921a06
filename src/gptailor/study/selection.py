"""The choice among finalists on the selection split, with their repairs."""

from collections.abc import Callable, Mapping, Sequence

from gptailor.core.objective import Objective
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Job, Scores, Trial
from gptailor.errors import RecordError
from gptailor.record.entries import ChosenEntry, ModelEntry, ModelKind, RefittedEntry
from gptailor.record.ranking import is_sized
from gptailor.study.failures import nothing_to_choose
from gptailor.study.guard import Guard, StudyJournal
from gptailor.study.plan import Plan
from gptailor.study.racing import best_first, of_unlike_cuts, stages, still_racing
from gptailor.study.scorer import Scorer

__all__ = ["N_REFITTED", "Refit", "Selection"]

# a finalist's number, its tailoring, and the whole model with fitted coefficients, if there is one
Refit = Callable[[int, Tailoring, Tailoring | None], RefittedEntry]
N_REFITTED = 2  # finalists at most, the best of unlike cuts, that are refitted on more tokens


class Selection:
    """Chooses a model.

    Args:
        journal: The open record.
        scorer: Scores models, each once.
        plan: Has the goals and the number of finalists.
        guard: Judges their texts; None for no guard.
        refit: Makes the repairs of a finalist; None for no repair.
        on_phase: Called with ``repair`` before one is made, and with ``selection`` afterwards.
    """

    def __init__(  # its parts
        self,
        journal: StudyJournal,
        scorer: Scorer,
        plan: Plan,
        guard: Guard | None,
        refit: Refit | None,
        on_phase: Callable[[str], None],
    ) -> None:
        self._journal, self._scorer, self._plan = journal, scorer, plan
        self._guard, self._refit, self._on_phase = guard, refit, on_phase

    def choose(
        self, trials: Sequence[Trial], best_trials: Sequence[Trial], fitted: Tailoring | None
    ) -> tuple[int, Tailoring]:
        """Compare the best candidates on the selection split, and record the choice.

        Args:
            trials: All of the search.
            best_trials: Those that can be chosen, the best first.
            fitted: The whole model whose coefficients were fitted; None without.

        Returns:
            The number of the chosen trial, and its model, repaired.

        Raises:
            RecordError: No trial can be chosen; the base can't be scored, or no finalist.
        """
        best: dict[Tailoring, Trial] = {}
        for trial in best_trials:
            best.setdefault(trial.tailoring, trial)
        if not best:
            raise nothing_to_choose(trials, self._plan.n_removed)
        n_examples = self._plan.sizes["selection"]
        whole = self._scorer.wholes("selection", n_examples)[BASE]
        base = self._scorer.scores("finalist", {BASE: whole})
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
        scores = self._with_living_text(raced, finalists, objective)
        order = best_first(scores, objective)
        models = {finalists[n]: (n, scores[n]) for n in order}
        if self._refit is not None:
            unlike = of_unlike_cuts(order, finalists, N_REFITTED)
            repairs = self._repairs({each: finalists[each] for each in unlike}, fitted)
            models = {each.searched: (n, scores[n]) for n, each in repairs.items()}
            refits = {n: each.refitted for n, each in repairs.items() if each.refitted}
            refit_scores = self._raced("refitted", refits, objective)
            models |= {refits[n]: (n, each) for n, each in refit_scores.items()}
        ranked = best_first({model: each for model, (_, each) in models.items()}, objective)
        chosen = self._written_best(ranked, {model: n for model, (n, _) in models.items()})
        number, found = models[chosen]
        compared = [*raced.values(), *(each for _, each in models.values())]
        cost = objective.scalar(found) - min(map(objective.scalar, compared))
        self._record_chosen(trials, number, len(finalists), chosen, cost)
        return number, chosen

    def _with_living_text(
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

    def _written_best(
        self, ranked: Sequence[Tailoring], numbers: Mapping[Tailoring, int]
    ) -> Tailoring:
        """The best model; if its text is dead, the best of which the text is shown to be better."""
        best, *others = ranked
        if not self._is_dead(numbers[best], best) or self._guard is None:
            return best
        for model in others:
            alive = not self._is_dead(numbers[model], model)
            if alive and self._guard.writes_better(model, best):
                return model
        return best

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
            entries = self._scorer.measured(kind, jobs)
            found = {number: entries[number].scores for number in left}
            scores = {number: each for number, each in found.items() if each is not None}
            n_kept = 1 if self._refit is None else N_REFITTED
            left = still_racing(scores, objective, n_kept) if scores else []
        return scores

    def _repairs(
        self, tailorings: Mapping[int, Tailoring], fitted: Tailoring | None
    ) -> dict[int, RefittedEntry]:
        """The repairs of finalists: recorded ones, or new ones."""
        assert self._refit is not None, "asked for repairs of a study without one"
        known = {entry.number: entry for entry in self._journal.of(RefittedEntry)}
        for number, tailoring in tailorings.items():
            if number not in known:
                self._on_phase("repair")
                known[number] = self._refit(number, tailoring, fitted)
                self._journal.append(known[number])
        self._on_phase("selection")
        return {number: known[number] for number in tailorings}

    def _record_chosen(
        self,
        trials: Sequence[Trial],
        number: int,
        n_compared: int,
        tailoring: Tailoring,
        cost: float,
    ) -> None:
        """Record the choice, unless the last entry says the same."""
        n_kept = self._plan.n_kept
        able = (t for t in trials if t.complete and is_sized(t.tailoring, n_kept))
        finalists = f"{n_compared} finalist{'' if n_compared == 1 else 's'}"
        chosen = ChosenEntry(
            number=number,
            n_tried=len({trial.tailoring for trial in able}),
            n_trials=len(trials),
            reason=f"best of {finalists} on examples the search did not see",
            **({} if self._guard is None else self._guard.verdict(number, tailoring, cost)),
            tailoring=None if self._refit is None else tailoring,
        )
        if [*self._journal.of(ChosenEntry)][-1:] != [chosen]:
            self._journal.append(chosen)
