"""Arithmetic: stories of one step, the answer among four numbers.

Wrong answers are near misses and what the wrong operation gives. Knows nothing of how rows are split.
"""

from collections.abc import Callable, Sequence

from questions.question import Question, Row, ask, draw, shuffled

__all__ = ["groups", "questions"]

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Leo")
THINGS = ("apples", "books", "coins", "stamps", "pencils", "shells", "cards", "marbles", "eggs")
STORIES: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "add": (
        "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
        lambda a, b: a + b,
    ),
    "subtract": (
        "{name} has {a} {things} and gives {b} away. How many {things} are left?",
        lambda a, b: a - b,
    ),
    "multiply": (
        "There are {a} boxes with {b} {things} in each box. How many {things} are there?",
        lambda a, b: a * b,
    ),
    "divide": (
        "{name} shares {a} {things} equally among {b} friends. How many does each friend get?",
        lambda a, b: a // b,
    ),
}


def groups() -> list[list[Row]]:
    """Give the pairs of numbers by operation: operation, first number, second number."""
    pairs = {
        "add": [(a, b) for a in range(2, 21) for b in range(2, 10) if a >= b],
        "subtract": [(a, b) for a in range(5, 21) for b in range(2, 10) if a > b + 1],
        "multiply": [(a, b) for a in range(2, 11) for b in range(2, 11) if a != b],
        "divide": [(a * b, b) for a in range(2, 11) for b in range(2, 11) if a != b],
    }
    return [
        [(name, str(a), str(b)) for a, b in shuffled(name, pairs[name])[:70]] for name in STORIES
    ]


def questions(rows: Sequence[Row]) -> list[Question]:
    """Tell one story of each pair of numbers."""
    made = []
    for operation, first, second in rows:
        a, b = int(first), int(second)
        story, solve = STORIES[operation]
        key = (operation, a, b)
        name, things = NAMES[draw((key, "name"), len(NAMES))], THINGS[draw(key, len(THINGS))]
        right = solve(a, b)
        wrong = _wrong_numbers(key, right, a, b)
        text = story.format(name=name, things=things, a=a, b=b)
        made.append(ask(text, str(right), [str(number) for number in wrong]))
    return made


def _wrong_numbers(key: object, right: int, a: int, b: int) -> list[int]:
    mistaken = [n for n in shuffled(key, {a + b, a - b, a * b}) if n > 0 and n != right][:1]
    near = [right + step for step in (-2, -1, 1, 2, 3, 10) if right + step > 0]
    return (mistaken + [n for n in shuffled((key, "near"), near) if n not in mistaken])[:3]
