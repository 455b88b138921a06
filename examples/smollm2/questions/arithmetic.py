"""Arithmetic: short stories, and which of four calculations answers them.

Two calculations use the right operation, two another; of each two one has a wrong result, so that
neither the choices nor their form give the answer away. How rows are split is decided elsewhere.
"""

from collections.abc import Callable, Sequence

from questions.question import Question, Row, ask, draw, shuffled

__all__ = ["groups", "questions"]

NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Frank", "Grace", "Henry", "Julia", "Leo")
THINGS = ("apples", "books", "coins", "stamps", "pencils", "shells", "cards", "marbles", "eggs")
N_EACH = 80

CALCULATIONS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a // b,
}
STORIES = {
    "+": "{name} has {a} {things} and gets {b} more. How many are there now?",
    "-": "{name} has {a} {things} and gives {b} away. How many are left?",
    "*": "There are {a} boxes with {b} {things} in each box. How many are there?",
    "/": "{name} shares {a} {things} equally among {b} friends. How many does each get?",
}


def groups() -> list[list[Row]]:
    """Give the pairs of numbers by operation: operation, first number, second number.

    The second number divides the first, so that each operation has a whole result.
    """
    pairs = [(b * times, b) for b in range(2, 10) for times in range(2, 12)]
    return [
        [(operation, str(a), str(b)) for a, b in shuffled(operation, pairs)[:N_EACH]]
        for operation in STORIES
    ]


def questions(rows: Sequence[Row]) -> list[Question]:
    """Tell one story of each pair of numbers."""
    made = []
    for operation, first, second in rows:
        a, b = int(first), int(second)
        key = (operation, a, b)
        name, things = NAMES[draw((key, "name"), len(NAMES))], THINGS[draw(key, len(THINGS))]
        right = _told(operation, a, b)
        others = [other for other in CALCULATIONS if other != operation]
        other = others[draw((key, "other"), len(others))]
        wrong = [_told(other, a, b), _told(operation, a, b, _slip(key))]
        wrong.append(_told(other, a, b, _slip((key, "other"))))
        text = STORIES[operation].format(name=name, things=things, a=a, b=b)
        made.append(ask(text, right, shuffled((key, "wrong"), wrong)))
    return made


def _slip(key: object) -> int:
    return (-2, -1, 1, 2)[draw((key, "slip"), 4)]


def _told(operation: str, a: int, b: int, slip: int = 0) -> str:
    return f"{a}{operation}{b}={CALCULATIONS[operation](a, b) + slip}"
