"""Task: examples as token ids, and the numbers that a model's answers come to.

An `Example` asks for the log-probabilities of its `Passage`s and turns them (`Outcome`s) into
metrics. The order of a task's examples is nested: the first n are its subset of n examples.
"""

import functools
import hashlib
import operator
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Protocol

import numpy as np

from gptailor.core.metrics import METRICS, ScoredExample, ScoredText
from gptailor.errors import TaskError

__all__ = [
    "EMPTY_WEIGHT",
    "Example",
    "Outcome",
    "Passage",
    "Prompt",
    "Task",
    "TextSize",
    "made_up_outcomes",
    "nested_order",
    "plain_numbers",
]

EMPTY_WEIGHT = 1e-9  # of an example with an empty text: a weight is positive
_MOST = 1e15  # of a plug-in metric's number: a record takes no larger ones


@dataclass(frozen=True, slots=True)
class Passage:
    """A context and its continuations, in token ids; none is empty.

    Each continuation is scored after the context, without seeing the others.
    """

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model goes on from, greedily; in token ids, of which there is one at least."""

    tokens: tuple[int, ...]
    max_new_tokens: int
    until: tuple[str, ...] = ()  # an answer ends with the first of these that it holds
    answers: tuple[str, ...] = ()  # the gold ones, which no model is shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """A model's score of one continuation, or what it wrote after a prompt."""

    logprob: float  # nats, summed over the continuation's tokens
    greedy: bool  # whether every token was the likeliest one
    n_tokens: int = 0
    divergence: float | None = None  # nats, summed over the tokens; None if not measured
    text: str | None = None  # what the model wrote; None where it was not asked to
    written: tuple[int, ...] = ()  # the same in token ids, the end-of-sequence token included
    # of each token, where divergences are measured: whether another one is likelier, and nats
    flips: tuple[bool, ...] = ()
    divergences: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class TextSize:
    """Length of a text: scored tokens, characters, words (as lm-eval counts them), UTF-8 bytes."""

    n_tokens: int
    n_characters: int
    n_words: int
    n_bytes: int

    @classmethod
    def of(cls, text: str, n_tokens: int) -> "TextSize":
        """Measure a text."""
        return cls(n_tokens, len(text), len(re.split(r"\s+", text)), len(text.encode()))

    def count(self, metric: str) -> float:
        """The length in the metric's unit; 1 where all examples weigh the same."""
        units = {"token": self.n_tokens, "word": self.n_words, "byte": self.n_bytes}
        return float(units.get(METRICS[metric].unit, 1))


class Example(Protocol):
    """One question, continuation or text."""

    @property
    def output_type(self) -> str:
        """lm-eval's name for its kind."""

    @property
    def passages(self) -> tuple[Passage, ...]:
        """What a model is asked to score."""

    @property
    def prompt(self) -> Prompt | None:
        """What a model is asked to write after; None if nothing."""

    @property
    def texts(self) -> tuple[TextSize, ...]:
        """The sizes of the choices, or of the one text."""

    @property
    def gold(self) -> tuple[int, ...]:
        """The indices of the gold answers in `texts`."""

    def in_order(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """``outcomes[passage][continuation]`` -> one outcome a request of lm-eval, in its order.

        What was written after a prompt is one more row, the last.
        """

    def score(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Outcomes in lm-eval's order -> the built-in metrics, all but the divergence."""

    def weight(self, metric: str) -> float:
        """How much the example counts: its size in the metric's unit."""


@dataclass(frozen=True)
class Task:
    """A task made of examples of one or several subtasks.

    Args:
        name: The name in records and messages.
        metrics: Every metric that it is measured by.
        examples: In nested order.
        origins: For each example its subtask, and the index of its document there.
        equal_subtasks: Metrics for which every subtask counts the same, whatever its size.
    """

    name: str
    metrics: tuple[str, ...]
    examples: tuple[Example, ...] = field(repr=False)
    origins: tuple[tuple[str, int], ...] = field(repr=False)
    equal_subtasks: frozenset[str] = frozenset()

    @property
    def n_examples(self) -> int:
        """Examples in all."""
        return len(self.examples)

    @property
    def chance(self) -> tuple[float, ...]:
        """How probable a guess is right: one number an example, or one for all; none, no choices.

        Of n choices with k gold answers it is k / n; not known where the task itself says what is
        right, in a function of its own.
        """
        kinds = {(one.output_type, getattr(one, "own", None) is None) for one in self.examples}
        if kinds != {("multiple_choice", True)}:
            return ()
        shares = [len(set(example.gold)) / len(example.texts) for example in self.examples]
        return tuple(shares if len(set(shares)) > 1 else shares[:1])

    @property
    def digest(self) -> str:
        """SHA-256 of its passages' token ids and of its numbers for a made-up answer, in order.

        The numbers depend on the gold answer, which no passage holds.
        """
        digest = hashlib.sha256()
        for index, example in enumerate(self.examples):
            for passage in example.passages:
                for tokens in (passage.context, *passage.continuations):
                    digest.update(np.array([len(tokens), *tokens], dtype="<i8").tobytes())
            if example.prompt is not None:
                digest.update(repr(example.prompt).encode())
            numbers = self.measure(index, made_up_outcomes(example))
            rounded = sorted((name, round(float(number), 6)) for name, number in numbers.items())
            digest.update(f"example {rounded}".encode())
        return digest.hexdigest()

    @property
    def writes(self) -> bool:
        """Whether a model writes its answers."""
        return self.examples[0].prompt is not None

    def proxy(self, metric: str) -> str:
        """The metric that ranks candidates on few examples.

        The metric itself where text is written and the gold answers, which are no texts, have no
        bits per byte.
        """
        proxy = METRICS[metric].proxy
        return metric if proxy is None or (self.writes and proxy not in self.metrics) else proxy

    def passages(self, example: int) -> tuple[Passage, ...]:
        """The passages of one example."""
        return self.examples[example].passages

    def measure(self, example: int, outcomes: Sequence[Sequence[Outcome]]) -> dict[str, float]:
        """Turn the outcomes of one example into its numbers.

        Args:
            example: Its index in the nested order.
            outcomes: ``outcomes[passage][continuation]``, and what was written as one more row.

        Returns:
            Metric to number; `divergence` only where every outcome carries one.

        Raises:
            TaskError: A plug-in metric returns no finite number.
        """
        scored = self.score(example, self.examples[example].in_order(outcomes))
        numbers = {metric: scored[metric] for metric in self.metrics if metric in scored}
        if "divergence" in self.metrics and not self.passages(example) and not self.writes:
            numbers["divergence"] = 0.0  # an empty text
        elif "divergence" in self.metrics:
            flat = [outcome for row in outcomes for outcome in row if outcome.text is None]
            measured = [one.divergence for one in flat if one.divergence is not None]
            if len(measured) == len(flat) > 0:
                total = functools.reduce(operator.add, measured)  # `sum` rounds otherwise in 3.12
                numbers["divergence"] = total / sum(one.n_tokens for one in flat)
        return numbers

    def score(self, example: int, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Turn the outcomes of lm-eval's requests into numbers, of all metrics but the divergence.

        Args:
            example: Its index in the nested order.
            outcomes: One a request, in lm-eval's order.

        Raises:
            TaskError: A plug-in metric returns no finite number.
        """
        one = self.examples[example]
        numbers = one.score(outcomes)
        for name in self.metrics:
            measure = METRICS[name].measure
            if measure is not None:
                number = measure(_scored(one, outcomes))
                if not isinstance(number, int | float) or not abs(number) <= _MOST:
                    raise TaskError(
                        f"task {self.name!r}, example {example}: the metric {name!r} returned "
                        f"{number!r}; it must return a finite number"
                    )
                numbers[name] = float(number)
        return numbers

    def weights(self, metric: str, n: int) -> tuple[float, ...] | None:
        """How much each of the first n examples counts for a metric.

        Args:
            metric: One of `metrics`.
            n: How many examples there are.

        Returns:
            One positive number an example, or None when all count the same. Within a subtask an
            example counts by its bytes, words or tokens; the subtasks of a group count by their
            numbers of examples, or all the same (`equal_subtasks`), as in lm-eval.
        """
        units = [self._unit(example, metric) for example in self.examples[:n]]
        subtasks = [subtask for subtask, _ in self.origins[:n]]
        sizes = Counter(subtasks)
        if len(sizes) > 1:
            totals: dict[str, float] = dict.fromkeys(sizes, 0.0)
            for subtask, unit in zip(subtasks, units, strict=True):
                totals[subtask] += unit
            equal = metric in self.equal_subtasks
            share = {name: (1 if equal else sizes[name]) / totals[name] for name in sizes}
            units = [unit * share[name] for name, unit in zip(subtasks, units, strict=True)]
        return None if len(set(units)) <= 1 else tuple(units)

    def _unit(self, example: Example, metric: str) -> float:
        if metric == "divergence":  # of every continuation, not of the gold answer alone
            return (
                float(sum(len(c) for p in example.passages for c in p.continuations))
                or EMPTY_WEIGHT
            )
        return example.weight(metric)


def _scored(example: Example, outcomes: Sequence[Outcome]) -> ScoredExample:
    texts = [
        ScoredText(one.logprob, one.greedy, *astuple(size))
        for size, one in zip(example.texts, outcomes, strict=False)  # lm-eval may ask for more
    ]
    return ScoredExample(example.output_type, tuple(texts), example.gold)


def made_up_outcomes(example: Example) -> list[list[Outcome]]:
    """An answer in which no two continuations are equally likely: ``[passage][continuation]``."""
    outcomes = [
        [
            Outcome(-1.0 - index - 10.0 * row, index == 0, len(continuation))
            for index, continuation in enumerate(passage.continuations)
        ]
        for row, passage in enumerate(example.passages)
    ]
    written = [] if example.prompt is None else [[Outcome(0.0, greedy=True, text="made up")]]
    return outcomes + written


def nested_order(strata: Sequence[Hashable], seed: int) -> tuple[int, ...]:
    """Order examples so that the first n represent all of them, whatever n is.

    Each stratum (such as a subtask) is shuffled and spread evenly over the whole, from a random
    start: among the first n it has ``n * size / total`` examples, give or take less than two.

    Example:
        >>> [("a" if i < 4 else "b") for i in nested_order(["a"] * 4 + ["b"] * 2, seed=0)]
        ['a', 'a', 'b', 'a', 'a', 'b']
    """
    members: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    rng = np.random.Generator(np.random.PCG64(seed))
    placed: list[tuple[float, int, int]] = []
    for rank, indices in enumerate(members.values()):
        shuffled = rng.permutation(len(indices))
        start = rng.random()
        placed += [
            ((position + start) / len(indices), rank, indices[int(which)])
            for position, which in enumerate(shuffled)
        ]
    return tuple(index for _, _, index in sorted(placed))


def plain_numbers(values: Mapping[str, object]) -> dict[str, float]:
    """Keep the numbers of what a task of lm-eval returns; pairs and lists are left out."""
    kinds = (int, float, np.number, np.bool_)
    return {name: float(value) for name, value in values.items() if isinstance(value, kinds)}
