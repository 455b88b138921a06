"""Generation: what does the model write, and is it right.

The written text goes through lm-eval's filters and metrics of the task. Where the gold
answer is a text there is also `gold_bits_per_byte`: it is continuous in the model's
log-likelihoods, and needs nothing written.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gptailor.tasks.task import Outcome, Passage, Prompt, TextSize

__all__ = ["GeneratedExample"]


@dataclass(frozen=True, slots=True)
class GeneratedExample:
    """One prompt, and the gold answer where it is a text."""

    passages: tuple[Passage, ...]  # the gold answer after the prompt; none if it is no text
    prompt: Prompt
    texts: tuple[TextSize, ...]  # the size of the gold answer, if it is a text
    # a written text, without its stop string -> lm-eval's metrics
    judge: Callable[[str], Mapping[str, float]] = field(repr=False, compare=False)
    output_type: ClassVar[str] = "generate_until"
    gold: ClassVar[tuple[int, ...]] = (0,)

    def in_order(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """The gold answer, if it is a text; then what was written."""
        return [outcome for row in outcomes for outcome in row]

    def score(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """lm-eval's metrics of the last outcome's text; `gold_bits_per_byte` of the first."""
        written = outcomes[-1].text or ""
        for stop in self.prompt.until:
            written = written.split(stop)[0]
        numbers = dict(self.judge(written))
        if self.texts:
            bits = -outcomes[0].logprob / math.log(2)
            numbers["gold_bits_per_byte"] = bits / self.texts[0].n_bytes
        return numbers

    def weight(self, metric: str) -> float:
        """The gold answer's size in the metric's unit."""
        return self.texts[0].count(metric) if self.texts else 1.0
