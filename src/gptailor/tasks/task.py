"""Task: examples as token ids, and the numbers that a model's answers to them come to.

A `Passage` is a context and the continuations whose log-probabilities are wanted; an `Outcome` is
what a model said about one continuation; an `Example` turns outcomes into metrics. The order of a
task's examples is nested: the first n are its subset of n examples. Knows nothing of models, of
tokenizers, or of where the examples come from.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from gptailor.core.metrics import METRICS

__all__ = [
    "Example",
    "ExampleTask",
    "Outcome",
    "Passage",
    "Response",
    "Task",
    "nested_order",
    "plain_numbers",
]

Response = tuple[float, bool]  # log-likelihood in nats, whether every token was the likeliest


@dataclass(frozen=True, slots=True)
class Passage:
    """A context and its continuations, in token ids.

    Args:
        context: At least one token.
        continuations: At least one, of at least one token each; each is scored after the context,
            without seeing the others.
    """

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model said about one continuation.

    Args:
        logprob: Nats, summed over the continuation's tokens.
        greedy: Whether every token was the likeliest one.
        n_tokens: Tokens of the continuation.
        divergence: Nats, summed over the tokens; None where it was not measured.
    """

    logprob: float
    greedy: bool
    n_tokens: int
    divergence: float | None = None


class Task(Protocol):
    """What the engine and the evaluator know of a task."""

    @property
    def name(self) -> str:
        """The name in records and messages."""
        ...

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric it can tell."""
        ...

    @property
    def n_examples(self) -> int:
        """Examples in all."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of its passages' token ids and of what answers to them count, in order."""
        ...

    def passages(self, example: int) -> tuple[Passage, ...]:
        """The passages of one example."""
        ...

    def measure(self, example: int, outcomes: Sequence[Sequence[Outcome]]) -> dict[str, float]:
        """Turn ``outcomes[passage][continuation]`` into metric -> the example's number."""
        ...

    def weights(self, metric: str, n: int) -> tuple[float, ...] | None:
        """How much each of the first n examples counts; None when all count the same."""
        ...


class Example(Protocol):
    """One question, text or continuation."""

    @property
    def passages(self) -> tuple[Passage, ...]:
        """What a model is to be asked."""
        ...

    def responses(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Response]:
        """Put the outcomes in the order of the harness's own requests."""
        ...

    def score(self, responses: Sequence[Response]) -> dict[str, float]:
        """Metric -> number, of every metric but the divergence."""
        ...

    def weight(self, metric: str) -> float:
        """Bytes, words, or 1: what the number was divided by."""
        ...


@dataclass(frozen=True)
class ExampleTask:
    """A task made of examples of one or several parts.

    Args:
        name: The name in records and messages.
        metrics: Every metric it can tell.
        examples: In nested order.
        origins: For each example its part (a leaf task) and the index of its document there.
        equal_parts: Metrics for which every part counts the same, whatever its size.
    """

    name: str
    metrics: tuple[str, ...]
    examples: tuple[Example, ...] = field(repr=False)
    origins: tuple[tuple[str, int], ...] = field(repr=False)
    equal_parts: frozenset[str] = frozenset()

    @property
    def n_examples(self) -> int:
        """Examples in all."""
        return len(self.examples)

    @property
    def digest(self) -> str:
        """SHA-256 of its passages' token ids and of what answers to them count, in order.

        The latter is what a made-up answer comes to: which choice is right stands in no passage.
        """
        digest = hashlib.sha256()
        for index, example in enumerate(self.examples):
            for passage in example.passages:
                for tokens in (passage.context, *passage.continuations):
                    digest.update(np.array([len(tokens), *tokens], dtype="<i8").tobytes())
            numbers = self.measure(index, _made_up(example.passages))
            told = sorted((name, round(float(number), 6)) for name, number in numbers.items())
            digest.update(f"example {told}".encode())
        return digest.hexdigest()

    def passages(self, example: int) -> tuple[Passage, ...]:
        """The passages of one example."""
        return self.examples[example].passages

    def measure(self, example: int, outcomes: Sequence[Sequence[Outcome]]) -> dict[str, float]:
        """Turn the outcomes of one example into its numbers.

        Args:
            example: Its place in the nested order.
            outcomes: ``outcomes[passage][continuation]``.

        Returns:
            Metric to number; `divergence` only where every outcome carries one.
        """
        one = self.examples[example]
        numbers = one.score(one.responses(outcomes))
        told = {metric: numbers[metric] for metric in self.metrics if metric in numbers}
        if "divergence" in self.metrics:
            divergence = _divergence([outcome for row in outcomes for outcome in row])
            if divergence is not None:
                told["divergence"] = divergence
        return told

    def weights(self, metric: str, n: int) -> tuple[float, ...] | None:
        """How much each of the first n examples counts for a metric.

        Args:
            metric: One of `metrics`.
            n: How many examples there are.

        Returns:
            One positive number an example, or None when all count the same. Within a part an
            example counts by its bytes, words or tokens; the parts of a group count by their
            numbers of examples, or all the same (`equal_parts`), as lm-eval has it.
        """
        units = [self._unit(example, metric) for example in self.examples[:n]]
        parts = [part for part, _ in self.origins[:n]]
        sizes = Counter(parts)
        if len(sizes) > 1:
            totals: dict[str, float] = dict.fromkeys(sizes, 0.0)
            for part, unit in zip(parts, units, strict=True):
                totals[part] += unit
            equal = metric in self.equal_parts
            share = {part: (1 if equal else sizes[part]) / totals[part] for part in sizes}
            units = [unit * share[part] for part, unit in zip(parts, units, strict=True)]
        return None if len(set(units)) <= 1 else tuple(units)

    def _unit(self, example: Example, metric: str) -> float:
        if metric == "divergence":
            return float(sum(len(c) for p in example.passages for c in p.continuations))
        assert metric in METRICS, metric
        return example.weight(metric)


def _made_up(passages: Sequence[Passage]) -> list[list[Outcome]]:
    """An answer in which no two continuations are equally likely."""
    return [
        [
            Outcome(-1.0 - place - 10.0 * row, place == 0, len(continuation))
            for place, continuation in enumerate(passage.continuations)
        ]
        for row, passage in enumerate(passages)
    ]


def _divergence(outcomes: Sequence[Outcome]) -> float | None:
    total = 0.0
    for outcome in outcomes:
        if outcome.divergence is None:
            return None
        total += outcome.divergence
    return total / sum(outcome.n_tokens for outcome in outcomes)


def nested_order(parts: Sequence[Hashable], seed: int) -> tuple[int, ...]:
    """Order examples so that the first n stand for all of them, whatever n is.

    Each part is shuffled and spread evenly over the whole, from a random start: among the first n
    a part has ``n * size / total`` examples, give or take less than two.

    Args:
        parts: The part of each example, such as the leaf task of a group.
        seed: The same seed gives the same order on every machine.

    Returns:
        A permutation of ``range(len(parts))``.

    Example:
        >>> [("a" if i < 4 else "b") for i in nested_order(["a"] * 4 + ["b"] * 2, seed=0)]
        ['a', 'a', 'b', 'a', 'a', 'b']
    """
    members: dict[Hashable, list[int]] = {}
    for index, part in enumerate(parts):
        members.setdefault(part, []).append(index)
    rng = np.random.Generator(np.random.PCG64(seed))
    placed: list[tuple[float, int, int]] = []
    for rank, indices in enumerate(members.values()):
        shuffled = rng.permutation(len(indices))
        start = rng.random()
        placed += [
            ((place + start) / len(indices), rank, indices[int(which)])
            for place, which in enumerate(shuffled)
        ]
    return tuple(index for _, _, index in sorted(placed))


def plain_numbers(told: Mapping[str, object]) -> dict[str, float]:
    """Keep the numbers of what a harness task tells; pairs and lists are left out."""
    kinds = (int, float, np.number, np.bool_)
    return {name: float(value) for name, value in told.items() if isinstance(value, kinds)}
