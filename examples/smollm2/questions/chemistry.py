"""Chemistry: symbols of elements, what elements are known for, formulas of substances.

Knows nothing of how rows are split.
"""

from collections.abc import Sequence

from questions.question import Question, Row, ask, pick_wrong, read_table

__all__ = ["groups", "questions"]

LAST = 56  # of the elements up to barium and a few more; the others are hardly ever heard of
FAMOUS = (
    "tungsten",
    "platinum",
    "gold",
    "mercury",
    "lead",
    "bismuth",
    "radon",
    "radium",
    "uranium",
)


def groups() -> list[list[Row]]:
    """Give the facts by table: table, what is asked about, right answer."""
    symbols: list[Row] = [
        ("elements", element, symbol)
        for number, element, symbol in read_table("elements")
        if int(number) <= LAST or element in FAMOUS
    ]
    return [
        symbols,
        [("element_uses", *row) for row in read_table("element_uses")],
        [("formulas", *row) for row in read_table("formulas")],
    ]


def questions(rows: Sequence[Row]) -> list[Question]:
    """Ask one question of each use, and two of each symbol and formula."""
    made = []
    for table, asked, right in rows:
        near = [row for row in rows if row[0] == table]
        wrong = pick_wrong(asked, right, [row[2] for row in near])
        if table == "element_uses":
            made.append(ask(f"Which element {asked}?", right, wrong))
            continue
        backwards = pick_wrong(right, asked, [row[1] for row in near])
        if table == "elements":
            made.append(ask(f"What is the chemical symbol for {asked}?", right, wrong))
            made.append(ask(f"Which element does {right} stand for?", asked, backwards))
        else:
            made.append(ask(f"What is the chemical formula of {asked}?", right, wrong))
            made.append(ask(f"What is {right}?", asked, backwards))
    return made
