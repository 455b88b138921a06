"""Multiple choice: which of the continuations does the model find likeliest.

The metrics are lm-eval's, to the bit: ties go to the first choice, and `acc_norm` divides a
choice's log-likelihood by its length in characters. Two are ours: `gold_bits_per_byte` and
`choice_logprob`, which are continuous in the model's log-likelihoods, unlike `acc`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gptailor.tasks.task import Outcome, Passage, TextSize, plain_numbers

__all__ = ["ChoiceExample", "ProcessResults", "share_contexts"]

Pair = tuple[tuple[int, ...], tuple[int, ...]]
# lm-eval's (log-likelihood, greedy) of each request -> metrics
ProcessResults = Callable[[Sequence[tuple[float, bool]]], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class ChoiceExample:
    """One question with its choices."""

    passages: tuple[Passage, ...]  # one where all choices follow the same context tokens
    # for each request of lm-eval its passage and continuation; the choices come first
    positions: tuple[tuple[int, int], ...]
    gold: tuple[int, ...]  # the indices of the gold choices, one at least
    texts: tuple[TextSize, ...]  # the size of each choice
    answer: TextSize  # of the text scored for the first gold choice
    # the task's `process_results` override, if it has one
    own: ProcessResults | None = field(default=None, repr=False, compare=False)
    output_type: ClassVar[str] = "multiple_choice"
    prompt: ClassVar[None] = None

    def in_order(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """One outcome a choice, in the order of the choices."""
        return [outcomes[passage][continuation] for passage, continuation in self.positions]

    def score(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Metric -> number; of several gold choices, any counts as right.

        `choice_logprob` is the log of the gold choices' joint probability among the choices,
        `gold_bits_per_byte` looks at the first gold choice.
        """
        # lm-eval asks for more than the choices where a task wants acc_mutual_info
        logprobs = [outcome.logprob for outcome in outcomes[: len(self.texts)]]
        gold = [logprobs[index] for index in self.gold]
        if self.own is None:
            numbers = self._lm_eval(logprobs)
        else:
            numbers = plain_numbers(self.own([(one.logprob, one.greedy) for one in outcomes]))
        return numbers | {
            "choice_logprob": _log_sum(gold) - _log_sum(logprobs),
            "gold_bits_per_byte": -gold[0] / (self.answer.n_bytes * math.log(2)),
        }

    def weight(self, metric: str) -> float:
        """The first gold answer's size in the metric's unit."""
        return self.answer.count(metric)

    def _lm_eval(self, logprobs: Sequence[float]) -> dict[str, float]:
        lengths = [float(choice.n_characters) for choice in self.texts]
        normed = [logprob / n for logprob, n in zip(logprobs, lengths, strict=True)]
        return {
            "acc": 1.0 if logprobs.index(max(logprobs)) in self.gold else 0.0,
            "acc_norm": 1.0 if normed.index(max(normed)) in self.gold else 0.0,
        }


def share_contexts(
    pairs: Sequence[Pair],
) -> tuple[tuple[Passage, ...], tuple[tuple[int, int], ...]]:
    """Gather continuations of equal contexts: the passages, and each pair's indices in them.

    Example:
        >>> passages, positions = share_contexts([((1, 2), (3,)), ((1, 2), (4, 5))])
        >>> passages
        (Passage(context=(1, 2), continuations=((3,), (4, 5))),)
        >>> positions
        ((0, 0), (0, 1))
    """
    gathered: dict[tuple[int, ...], tuple[int, list[tuple[int, ...]]]] = {}
    positions = []
    for context, continuation in pairs:
        passage, continuations = gathered.setdefault(context, (len(gathered), []))
        positions.append((passage, len(continuations)))
        continuations.append(continuation)
    passages = tuple(Passage(context, tuple(found)) for context, (_, found) in gathered.items())
    return passages, tuple(positions)


def _log_sum(logs: Sequence[float]) -> float:
    """The log of the sum of exponentials, without under- or overflow."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(one - top) for one in logs))
