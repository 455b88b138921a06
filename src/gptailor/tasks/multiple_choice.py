"""Multiple choice: which of the continuations does the model find likeliest.

The metrics are lm-eval's, to the bit: ties go to the first choice, and `acc_norm` divides a
choice's log-likelihood by its length in characters. Two are ours: `gold_bits_per_byte` and
`choice_logprob`, which move with every small change of a model where `acc` stands still. Knows
nothing of lm-eval.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gptailor.tasks.task import Outcome, Passage, Response, plain_numbers

__all__ = ["ChoiceExample", "share_contexts"]

Pair = tuple[tuple[int, ...], tuple[int, ...]]
Own = Callable[[Sequence[Response]], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class ChoiceExample:
    """One question with its choices.

    Args:
        passages: One where all choices follow the same context tokens, else several.
        places: For each choice the passage and the continuation that stand for it.
        gold: The indices of the right choices, one at least.
        lengths: Characters of each choice, which `acc_norm` divides by.
        answer_bytes: UTF-8 bytes of the first right choice.
        own: The task's own way from responses to metrics, where it has one.
    """

    passages: tuple[Passage, ...]
    places: tuple[tuple[int, int], ...]
    gold: tuple[int, ...]
    lengths: tuple[float, ...]
    answer_bytes: int
    own: Own | None = field(default=None, repr=False, compare=False)

    def responses(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Response]:
        """One response a choice, in the order of the choices."""
        found = [outcomes[passage][continuation] for passage, continuation in self.places]
        return [(outcome.logprob, outcome.greedy) for outcome in found]

    def score(self, responses: Sequence[Response]) -> dict[str, float]:
        """Metric -> number; of several right choices, any counts as right.

        `choice_logprob` is the log of the right choices' joint probability among the choices,
        `gold_bits_per_byte` looks at the first right choice.
        """
        # lm-eval asks for more than the choices where a task wants acc_mutual_info
        choices = [loglikelihood for loglikelihood, _ in responses[: len(self.lengths)]]
        right = [choices[index] for index in self.gold]
        own = self._lm_eval(choices) if self.own is None else plain_numbers(self.own(responses))
        return own | {
            "choice_logprob": _log_sum(right) - _log_sum(choices),
            "gold_bits_per_byte": -right[0] / (self.answer_bytes * math.log(2)),
        }

    def weight(self, metric: str) -> float:
        """The answer's bytes for `gold_bits_per_byte`, else 1."""
        return float(self.answer_bytes) if metric == "gold_bits_per_byte" else 1.0

    def _lm_eval(self, loglikelihoods: Sequence[float]) -> dict[str, float]:
        normed = [one / length for one, length in zip(loglikelihoods, self.lengths, strict=True)]
        return {
            "acc": 1.0 if loglikelihoods.index(max(loglikelihoods)) in self.gold else 0.0,
            "acc_norm": 1.0 if normed.index(max(normed)) in self.gold else 0.0,
        }


def share_contexts(
    pairs: Sequence[Pair],
) -> tuple[tuple[Passage, ...], tuple[tuple[int, int], ...]]:
    """Gather the continuations of equal contexts into one passage.

    Args:
        pairs: Context and continuation of each choice, in token ids.

    Returns:
        The passages, and for each pair the passage and the continuation that stand for it.

    Example:
        >>> passages, places = share_contexts([((1, 2), (3,)), ((1, 2), (4, 5))])
        >>> passages
        (Passage(context=(1, 2), continuations=((3,), (4, 5))),)
        >>> places
        ((0, 0), (0, 1))
    """
    gathered: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    order: dict[tuple[int, ...], int] = {}
    places = []
    for context, continuation in pairs:
        continuations = gathered.setdefault(context, [])
        passage = order.setdefault(context, len(order))
        places.append((passage, len(continuations)))
        continuations.append(continuation)
    passages = tuple(Passage(context, tuple(found)) for context, found in gathered.items())
    return passages, tuple(places)


def _log_sum(logs: Sequence[float]) -> float:
    """The log of the sum of exponentials, without under- or overflow."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(one - top) for one in logs))
