"""The guard: is a candidate's greedy text dead beside a whole member's own?

Dead is what repeats itself, ends in loops or says nothing far more often than the base, and what
finds other tokens likelier at more than three quarters of the member's own text.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gptailor.core.objective import Goal
from gptailor.core.score_table import best_member
from gptailor.core.specs import GENERATION
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import GUARD, Evaluation, Job, Scores
from gptailor.record.entries import Entry, EntryT, WrittenEntry
from gptailor.tasks.greedy_text import GREEDY_TEXT

__all__ = ["Guard", "StudyJournal", "dead_text"]

_MARGINS = {"repeated_4grams": 0.4, "loops": 0.5, "empty": 0.3}  # above the base's share
_Z = 3.0  # standard errors of the paired difference
_BETTER_Z = 2.0  # the same, of a text for which loss is given up
_MOST_FLIPS = 0.75
_FAULTS = (*((GREEDY_TEXT, metric) for metric in _MARGINS), (GENERATION, "flip_rate"))
_WORDS = {"repeated_4grams": "repeated 4-grams", "loops": "loops", "empty": "empty texts"}


class StudyJournal(Protocol):
    """What a study needs of its record; a `Journal`, or one that is not written to disk."""

    @property
    def path(self) -> Path:
        """The file that messages name."""

    def append(self, entry: Entry) -> None:
        """Add an entry; from then on it is safe."""

    def of(self, entry_type: type[EntryT], kind: str | None = None) -> Iterator[EntryT]:
        """The entries of one type, or of one kind of it, in order."""


class Guard:
    """Judges candidates by their greedy text, which is written once and recorded.

    Args:
        journal: The open record.
        evaluate: Runs jobs.
        n_layers: Of each member.
        n_examples: Of the task of greedy text that has the most.
    """

    def __init__(
        self,
        journal: StudyJournal,
        evaluate: Callable[[Sequence[Job]], Iterator[Evaluation]],
        n_layers: int,
        n_examples: int,
    ) -> None:
        self._journal, self._evaluate = journal, evaluate
        self._n_layers, self._n_examples = n_layers, n_examples
        self._dead: dict[str, tuple[int, str]] = {}  # digest -> trial, and why
        self._failed: set[str] = set()  # digests that were tried in this process
        self._alike = False  # whether a living text was not shown to be better than a dead one
        self._off: str | None = None  # why the base can't write, and nobody is judged

    def written(self, model: str | int, tailoring: Tailoring) -> Evaluation:
        """A whole member or a candidate on the tasks of greedy text: recorded, or new.

        What failed in an earlier process is tried again.
        """
        for entry in self._journal.of(WrittenEntry):
            known = entry.scores is not None or entry.tailoring in self._failed
            if known and entry.tailoring == tailoring.digest:
                return entry.evaluation
        (done,) = self._evaluate([Job(tailoring, self._n_examples, GUARD)])
        self._journal.append(WrittenEntry.of(model, tailoring.digest, done))
        if done.scores is None:
            self._failed.add(tailoring.digest)
        return done

    def is_dead(self, number: int, tailoring: Tailoring) -> bool:
        """Whether a candidate's text is dead, or can't be written where the base's can.

        It writes, and what it writes is recorded, unless it did before.

        Args:
            number: Of its trial.
            tailoring: Its layers.
        """
        base = self.written(BASE, Tailoring.whole(BASE, self._n_layers))
        self._off = base.failure
        if base.scores is None:
            return False
        done = self.written(number, tailoring)
        why = done.failure if done.scores is None else dead_text(done.scores, base.scores)
        if why is None:
            return False
        self._dead[tailoring.digest] = number, why
        return True

    def writes_better(self, ours: Tailoring, dead: Tailoring) -> bool:
        """Whether a living text is shown to have fewer faults than a dead one with a lower loss.

        Both were judged. A share of 32 texts is not known well: a little above a margin and a
        little below it are the same.
        """
        texts = [self.written(self._dead[dead.digest][0], each).scores for each in (ours, dead)]
        if texts[0] is None or texts[1] is None:
            return True
        better = any(_is_lower(texts[0], texts[1], task, name) for task, name in _FAULTS)
        self._alike = self._alike or not better
        return better

    def write_for_report(
        self, members: Mapping[str, Scores], goals: Sequence[Goal], number: int, chosen: Tailoring
    ) -> None:
        """Let the best whole member and the chosen model write; the base has.

        Args:
            members: Their scores on the test split.
            goals: What they were scored by.
            number: The trial's.
            chosen: Its model, repaired.
        """
        best = best_member(members, {goal.task: goal.metric for goal in goals}) or BASE
        self.written(best, Tailoring.whole(best, self._n_layers))
        self.written(number, chosen)

    def verdict(self, number: int, tailoring: Tailoring, cost: float) -> dict[str, Any]:
        """The keys of a choice: a sentence on dead texts and their cost, or why none was judged.

        Args:
            number: Of the chosen trial.
            tailoring: Its model, repaired.
            cost: Its loss less the lowest loss of all.
        """
        if self._off is not None:
            return {"guard": f"no text was judged, because the base can't write: {self._off}"}
        if not self._dead:
            return {}
        by_trial = dict(self._dead.values())  # of a trial and its repairs only the last
        alive = None if tailoring.digest in self._dead else number
        listed = "; ".join(
            f"trial {each}{' with another repair' if each == alive else ''}: {why}"
            for each, why in by_trial.items()
        )
        if tailoring.digest in self._dead and self._alike:
            why = self._dead[tailoring.digest][1]
            return {"guard": f"its greedy text is dead ({why}), and no other is shown to be better"}
        if tailoring.digest in self._dead:
            return {"guard": f"the greedy text of every finalist is dead ({listed})"}
        text = f"passed over because their greedy text is dead: {listed}"
        return {
            "guard": f"{text}; the loss of the pick is {cost:.4f} above the lowest",
            "guard_cost": round(cost, 6),
        }


def _is_lower(ours: Scores, theirs: Scores, task: str, metric: str) -> bool:
    """Whether a fault is rarer in our texts by two standard errors of the paired difference."""
    gap, error = _paired(theirs, ours, task, metric)
    return gap > _BETTER_Z * error


def _paired(ours: Scores, theirs: Scores, task: str, metric: str) -> tuple[float, float]:
    """The mean of our values less theirs, text by text, and its standard error."""
    here, there = (each.tasks[task][metric].values for each in (ours, theirs))
    gaps = np.array(here) - np.array(there)
    error = gaps.std(ddof=1) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return float(gaps.mean()), float(error)


def dead_text(ours: Scores, base: Scores) -> str | None:
    """Why a candidate's greedy text is dead; None if it is not.

    Both are scores of the tasks of greedy text; `base` is the whole base's.
    """
    for metric, margin in _MARGINS.items():
        gap, error = _paired(ours, base, GREEDY_TEXT, metric)
        if gap > max(margin, _Z * error):
            here, there = (each.value(GREEDY_TEXT, metric) for each in (ours, base))
            return f"{_WORDS[metric]} {here:.0%}, the base {there:.0%}"
    flips = ours.value(GENERATION, "flip_rate")
    if flips > _MOST_FLIPS:
        return f"{flips:.0%} of a whole member's own tokens are not its likeliest"
    return None
