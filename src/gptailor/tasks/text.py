"""Text: how likely the model finds one continuation, or a whole text window by window.

Numbers are per unit (nats per word, bits per byte), and the units are the weights, so that the
weighted mean over examples is lm-eval's own aggregate. Knows nothing of lm-eval.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gptailor.tasks.task import Outcome, Passage, Response, plain_numbers

__all__ = ["ContinuationExample", "RollingExample"]

Own = Callable[[Sequence[Response]], Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class ContinuationExample:
    """One continuation after its context.

    Args:
        passages: One passage with one continuation.
        answer_bytes: UTF-8 bytes of the continuation's text.
        own: The task's own way from responses to metrics, where it has one.
    """

    passages: tuple[Passage, ...]
    answer_bytes: int
    own: Own | None = field(default=None, repr=False, compare=False)

    def responses(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Response]:
        """The one response."""
        return [(outcomes[0][0].logprob, outcomes[0][0].greedy)]

    def score(self, responses: Sequence[Response]) -> dict[str, float]:
        """`perplexity` in nats, `acc` (all tokens the likeliest), and `gold_bits_per_byte`."""
        loglikelihood, greedy = responses[0]
        numbers = {"perplexity": -loglikelihood, "acc": float(greedy)}
        if self.own is not None:
            numbers = plain_numbers(self.own(responses))
            if "perplexity" in numbers:  # lm-eval's number is the log-likelihood
                numbers["perplexity"] = -numbers["perplexity"]
        return numbers | {"gold_bits_per_byte": -loglikelihood / (self.answer_bytes * math.log(2))}

    def weight(self, metric: str) -> float:
        """The continuation's bytes for `gold_bits_per_byte`, else 1."""
        return float(self.answer_bytes) if metric == "gold_bits_per_byte" else 1.0


@dataclass(frozen=True, slots=True)
class RollingExample:
    """A whole text, in windows that each token is predicted in once.

    Args:
        passages: One a window, with one continuation.
        units: Metric to what the text is divided into: words for `word_perplexity`, else bytes.
    """

    passages: tuple[Passage, ...]
    units: Mapping[str, int]

    def responses(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Response]:
        """The text's log-likelihood: the sum over its windows."""
        total = sum(row[0].logprob for row in outcomes)
        return [(total, all(row[0].greedy for row in outcomes))]

    def score(self, responses: Sequence[Response]) -> dict[str, float]:
        """Nats per word or byte; bits per byte."""
        nats = -responses[0][0]
        return {
            metric: nats / units / (math.log(2) if metric == "bits_per_byte" else 1.0)
            for metric, units in self.units.items()
        }

    def weight(self, metric: str) -> float:
        """The text's words or bytes."""
        return float(self.units[metric])
