"""Greedy text: does a model repeat itself, come to an end, and write what another would write.

Two kinds of examples. After a prompt a model writes its own text, whose faults are counted. And a
member's own text is kept: a candidate reads it, and its next token is compared at every position.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from gptailor.core.specs import CONTINUED, GENERATION
from gptailor.tasks.generation import GeneratedExample
from gptailor.tasks.task import Outcome, Passage, Prompt, Task, TextSize

__all__ = [
    "FAULTS",
    "GREEDY_TEXT",
    "NEW_TOKENS",
    "PROBE",
    "OwnText",
    "continued_task",
    "loop_period",
    "own_text_task",
    "probe_task",
    "repeated_ngrams",
]

GREEDY_TEXT, PROBE = "greedy text", "sums and brackets"  # tasks
FAULTS = ("repeated_4grams", "loops", "empty", "unterminated")
NEW_TOKENS = 64  # most that are written after a prompt

_LONGEST_PERIOD = 32
_LEAST_LOOP = 12  # tokens that repeat what is a period before them
_N_PROBES = 16  # sums, and as many brackets
_PROBE_TOKENS = 8
_SEED = 0
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_SHOWN_SUMS = ((7, 5), (12, 31), (40, 8))
_SHOWN_BRACKETS = ("([", "{", "[({")


@dataclass(frozen=True, slots=True)
class OwnText:
    """What a member itself writes after a prompt, in token ids."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    # indices in `answer` of the tokens that must be right: digits, operators and brackets, and
    # those that the member is sure of
    critical: tuple[int, ...]


def repeated_ngrams(tokens: Sequence[int], n: int = 4) -> float:
    """The share of a text's n-grams that are in it before; 0 if it has none.

    Example:
        >>> repeated_ngrams([1, 2, 3, 4, 1, 2, 3, 4])
        0.2
    """
    grams = [tuple(tokens[index : index + n]) for index in range(len(tokens) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def loop_period(tokens: Sequence[int]) -> int:
    """The period of the loop that a text ends in, in tokens; 0 if it ends in none.

    A loop has a period of 32 tokens at most and is run through three times, or for twelve tokens
    after its first period if that is more.

    Example:
        >>> loop_period([9, *[1, 2] * 7]), loop_period([1, 2] * 3)
        (2, 0)
    """
    for period in range(1, _LONGEST_PERIOD + 1):
        n = max(2 * period, _LEAST_LOOP)
        if len(tokens) >= n + period and tokens[-n:] == tokens[-n - period : -period]:
            return period
    return 0


def own_text_task(texts: Sequence[OwnText], *, metrics: Sequence[str] = CONTINUED) -> Task:
    """A task whose examples are a member's own texts, which candidates read."""
    examples = tuple(_OwnTextExample(text) for text in texts)
    return _task(GENERATION, metrics, examples)


def continued_task(prompts: Sequence[Sequence[int]], max_new_tokens: int = NEW_TOKENS) -> Task:
    """A task of prompts in token ids, after which candidates write."""
    examples = tuple(_GreedyExample(Prompt(tuple(each), max_new_tokens)) for each in prompts)
    return _task(GREEDY_TEXT, FAULTS, examples)


def probe_task(encode: Callable[[str], Sequence[int]]) -> Task:
    """Short sums and bracket completions, right if the written line is the answer.

    `encode` turns a text into token ids.
    """
    rng = np.random.default_rng(_SEED)
    shown = "".join(f"{a} + {b} = {a + b}\n" for a, b in _SHOWN_SUMS)
    pairs = [rng.integers(2, 50, 2).tolist() for _ in range(_N_PROBES)]
    questions = [(f"{shown}{a} + {b} =", str(a + b)) for a, b in pairs]
    shown = "".join(f"open: {_spaced(o)} close: {_closed(o)}\n" for o in _SHOWN_BRACKETS)
    sizes = (rng.integers(1, 4) for _ in range(_N_PROBES))
    opened = [rng.choice([*_CLOSING], size=size).tolist() for size in sizes]
    questions += [(f"{shown}open: {_spaced(o)} close:", _closed(o)) for o in opened]
    examples = []
    for text, gold in questions:
        tokens = tuple(encode(text))
        prompt = Prompt(tokens, _PROBE_TOKENS, until=("\n",), answers=(gold,))
        examples.append(GeneratedExample((), prompt, (), _Judge(gold)))
    return _task(PROBE, ("exact_match",), examples)


@dataclass(frozen=True, slots=True)
class _Judge:
    """Whether a written line is the gold answer; spaces do not count."""

    gold: str

    def __call__(self, text: str) -> Mapping[str, float]:
        return {"exact_match": float("".join(text.split()) == "".join(self.gold.split()))}


@dataclass(frozen=True, slots=True)
class _GreedyExample:
    """A prompt that a model writes after, whatever it likes."""

    prompt: Prompt
    passages: ClassVar[tuple[Passage, ...]] = ()
    texts: ClassVar[tuple[TextSize, ...]] = ()
    output_type: ClassVar[str] = "generate_until"
    gold: ClassVar[tuple[int, ...]] = ()

    def in_order(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """What was written."""
        return [outcomes[0][0]]

    def score(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """The faults of what was written."""
        written, text = outcomes[0].written, outcomes[0].text or ""
        return {
            "repeated_4grams": repeated_ngrams(written),
            "loops": float(loop_period(written) > 0),
            "empty": float(not text.strip()),
            "unterminated": float(len(written) >= self.prompt.max_new_tokens),
        }

    def weight(self, metric: str) -> float:
        """All count the same."""
        return 1.0


@dataclass(frozen=True, slots=True)
class _OwnTextExample:
    """A member's own text; a candidate's next token is compared at every position."""

    text: OwnText
    prompt: ClassVar[None] = None
    texts: ClassVar[tuple[TextSize, ...]] = ()
    output_type: ClassVar[str] = "loglikelihood"
    gold: ClassVar[tuple[int, ...]] = (0,)

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The text after its prompt."""
        return (Passage(self.text.prompt, (self.text.answer,)),)

    def in_order(self, outcomes: Sequence[Sequence[Outcome]]) -> list[Outcome]:
        """The one outcome."""
        return [outcomes[0][0]]

    def score(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Shares of positions, and nats a token; nothing where no position was compared."""
        flips, nats = outcomes[0].flips, outcomes[0].divergences
        if not flips:
            return {}
        critical = self.text.critical
        n = max(1, len(critical))
        return {
            "flip_rate": sum(flips) / len(flips),
            "critical_flip_rate": sum(flips[index] for index in critical) / n,
            "critical_divergence": sum(nats[index] for index in critical) / n,
        }

    def weight(self, metric: str) -> float:
        """The positions that a metric looks at."""
        critical = metric.startswith("critical")
        return float(len(self.text.critical) if critical else len(self.text.answer))


def _task(name: str, metrics: Sequence[str], examples: Sequence[Any]) -> Task:
    origins = tuple((name, index) for index in range(len(examples)))
    return Task(name, tuple(metrics), tuple(examples), origins)


def _spaced(brackets: Sequence[str]) -> str:
    return " ".join(brackets)


def _closed(brackets: Sequence[str]) -> str:
    return _spaced([_CLOSING[each] for each in reversed(brackets)])
