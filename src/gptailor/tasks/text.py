"""Text: how likely the model finds one continuation, or a whole text window by window.

Numbers are per unit (nats per word, bits per byte), and the units are the weights, so that the
weighted mean over examples is lm-eval's own aggregate.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gptailor.tasks.multiple_choice import ProcessResults
from gptailor.tasks.task import EMPTY_WEIGHT, Outcome, Passage, TextSize, plain_numbers

__all__ = ["ContinuationExample", "RollingExample"]


@dataclass(frozen=True, slots=True)
class ContinuationExample:
    """One continuation after its context."""

    passages: tuple[Passage, ...]  # one, with one continuation
    texts: tuple[TextSize]  # the size of the continuation
    # the task's `process_results` override, if it has one
    own: ProcessResults | None = field(default=None, repr=False, compare=False)
    output_type: ClassVar[str] = "loglikelihood"
    prompt: ClassVar[None] = None
    gold: ClassVar[tuple[int, ...]] = (0,)

    def in_order(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """The one outcome."""
        return [outcomes[0][0]]

    def score(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """`perplexity` in nats, `acc` (all tokens the likeliest), and `gold_bits_per_byte`."""
        logprob, greedy = outcomes[0].logprob, outcomes[0].greedy
        numbers = {"perplexity": -logprob, "acc": float(greedy)}
        if self.own is not None:
            numbers = plain_numbers(self.own([(logprob, greedy)]))
            if "perplexity" in numbers:  # lm-eval's number is the log-likelihood
                numbers["perplexity"] = -numbers["perplexity"]
        return numbers | {"gold_bits_per_byte": -logprob / (self.texts[0].n_bytes * math.log(2))}

    def weight(self, metric: str) -> float:
        """The continuation's size in the metric's unit."""
        return self.texts[0].count(metric)


@dataclass(frozen=True, slots=True)
class RollingExample:
    """A whole text, in windows that each token is predicted in once; an empty one has none."""

    passages: tuple[Passage, ...]  # one a window, with one continuation
    units: Mapping[str, int]  # built-in metric -> the text's words or bytes, as the task counts
    texts: tuple[TextSize]  # the size of the text
    output_type: ClassVar[str] = "loglikelihood_rolling"
    prompt: ClassVar[None] = None
    gold: ClassVar[tuple[int, ...]] = (0,)

    def in_order(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """The whole text: the sum over its windows."""
        total = sum(row[0].logprob for row in outcomes)
        return [Outcome(total, all(row[0].greedy for row in outcomes), self.texts[0].n_tokens)]

    def score(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Nats per word or byte; bits per byte."""
        nats = -outcomes[0].logprob
        return {
            metric: nats / max(units, 1) / (math.log(2) if metric == "bits_per_byte" else 1.0)
            for metric, units in self.units.items()
        }

    def weight(self, metric: str) -> float:
        """The text's words or bytes, as the task counts; else its size in the metric's unit."""
        count = self.units[metric] if metric in self.units else self.texts[0].count(metric)
        return float(count) or EMPTY_WEIGHT
