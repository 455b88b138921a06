"""What the makers of questions share: a question, a text, tables, and draws that never change.

A draw depends on its key alone (a SHA-256 digest), so that every machine and every version of
Python and of its libraries makes the same questions. Knows nothing of splits and files' formats.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

__all__ = ["FACTS", "Question", "Row", "ask", "draw", "pick_wrong", "read_table", "shuffled"]

FACTS = Path(__file__).parent.parent / "facts"
Row = tuple[str, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """One question with one right answer.

    Args:
        query: The text up to and with ``Answer:``.
        right: The right answer.
        wrong: Three answers that are wrong.
    """

    query: str
    right: str
    wrong: tuple[str, ...]


def ask(question: str, right: str, wrong: Sequence[str]) -> Question:
    """Put a question into the form all tasks share."""
    return Question(f"Question: {question}\nAnswer:", right, tuple(wrong))


def read_table(name: str) -> list[Row]:
    """Read the rows of a table of tab-separated facts; lines with ``#`` in front are comments."""
    lines = (FACTS / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines if line and not line.startswith("#")]


def draw(key: object, n: int) -> int:
    """Give a number from 0 to `n` - 1 that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big") % n


def shuffled(key: object, items: Iterable[T]) -> list[T]:
    """Put items in an order that depends on the key and on each item alone."""
    return sorted(items, key=lambda item: hashlib.sha256(repr((key, item)).encode()).digest())


def pick_wrong(key: object, right: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """Pick three wrong answers, all different, among the candidates."""
    others = dict.fromkeys(answer for answer in candidates if answer != right)
    return tuple(shuffled((key, "wrong"), others)[:3])
