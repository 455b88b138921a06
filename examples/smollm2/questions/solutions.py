"""Word problems solved step by step: texts whose likelihood is measured.

Written as the texts that the math variant was trained on. How rows are split is decided elsewhere.
"""

from collections.abc import Sequence

from questions.question import Row, draw, shuffled

__all__ = ["groups", "texts"]

NAMES = ("Alice", "Boris", "Chloe", "Daniel", "Ella", "Felix", "Hannah", "Ivan", "Kate", "Liam")
THINGS = ("apples", "books", "coins", "stamps", "pencils", "shells", "cards", "marbles", "eggs")
N_EACH = 30

# problem, solution; in braces are names, things, the numbers a, b and c, and what follows from them
PROBLEMS: dict[str, tuple[str, str]] = {
    "together": (
        "{name} has {a} {things}. {friend} has {b} times as many. "
        "How many {things} do they have together?",
        "{friend} has {a} * {b} = {ab} {things}.\n"
        "Together they have {a} + {ab} = {a_ab} {things}.\n#### {a_ab}",
    ),
    "change": (
        "{name} buys {a} {things} for ${b} each and pays with $100. How much change is there?",
        "The {things} cost {a} * ${b} = ${ab}.\nThe change is $100 - ${ab} = ${rest}.\n#### {rest}",
    ),
    "boxes": (
        "A box holds {a} {things}. {name} fills {b} boxes and has {c} {things} left over. "
        "How many {things} does {name} have?",
        "The boxes hold {a} * {b} = {ab} {things}.\n"
        "In all {name} has {ab} + {c} = {ab_c} {things}.\n#### {ab_c}",
    ),
    "pages": (
        "A book has 100 pages. {name} reads {a} pages a day for {b} days. "
        "How many pages are left to read?",
        "{name} reads {a} * {b} = {ab} pages.\nThere are 100 - {ab} = {rest} pages left.\n"
        "#### {rest}",
    ),
    "wages": (
        "{name} earns ${a} an hour and works {b} hours a day. "
        "How much does {name} earn in {c} days?",
        "{name} earns ${a} * {b} = ${ab} a day.\n"
        "In {c} days {name} earns ${ab} * {c} = ${abc}.\n#### {abc}",
    ),
    "classes": (
        "There are {a} boys and {b} girls in each of {c} classes. How many children are there?",
        "Each class has {a} + {b} = {a_b} children.\n"
        "There are {a_b} * {c} = {a_b_c} children.\n#### {a_b_c}",
    ),
    "bus": (
        "A bus has 50 seats. {a} people get on at the first stop and {b} at the second. "
        "How many seats are free?",
        "There are {a} + {b} = {a_b} people on the bus.\n"
        "So 50 - {a_b} = {free} seats are free.\n#### {free}",
    ),
    "ages": (
        "{name} is {a} years old. {friend} is {b} years older. "
        "How old will {friend} be in {c} years?",
        "{friend} is {a} + {b} = {a_b} years old.\n"
        "In {c} years {friend} will be {a_b} + {c} = {a_b_plus_c} years old.\n#### {a_b_plus_c}",
    ),
}


def groups() -> list[list[Row]]:
    """Give numbers for each problem: problem, a, b, c."""
    numbers = [(a, b) for a in range(3, 11) for b in range(2, 10) if a != b]
    return [
        [
            (problem, str(a), str(b), str(2 + draw((problem, a, b), 6)))
            for a, b in shuffled(problem, numbers)[:N_EACH]
        ]
        for problem in PROBLEMS
    ]


def texts(rows: Sequence[Row]) -> list[str]:
    """Write one problem and its solution for each row."""
    return [_solved(problem, int(a), int(b), int(c)) for problem, a, b, c in rows]


def _solved(problem: str, a: int, b: int, c: int) -> str:
    name, friend = shuffled((problem, a, b, c), NAMES)[:2]
    words = {
        "name": name,
        "friend": friend,
        "things": THINGS[draw((problem, a, b, c), len(THINGS))],
        **{"a": a, "b": b, "c": c, "ab": a * b, "abc": a * b * c, "a_ab": a + a * b},
        **{"ab_c": a * b + c, "rest": 100 - a * b, "a_b": a + b, "a_b_c": (a + b) * c},
        **{"free": 50 - a - b, "a_b_plus_c": a + b + c},
    }
    question, answer = PROBLEMS[problem]
    return f"Question: {question.format(**words)}\nAnswer: {answer.format(**words)}"
