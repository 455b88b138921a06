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
    """Give elements and substances: sort, name, symbol or formula, what an element is known for."""
    uses: dict[str, list[str]] = {}
    for use, element in read_table("element_uses"):
        uses.setdefault(element, []).append(use)
    elements: list[Row] = [
        ("element", element, symbol, *uses.get(element, []))
        for number, element, symbol in read_table("elements")
        if int(number) <= LAST or element in FAMOUS or element in uses
    ]
    return [elements, [("substance", *row) for row in read_table("formulas")]]


def questions(rows: Sequence[Row]) -> list[Question]:
    """Ask from the name to the symbol or formula, and back, and for what is known for its use."""
    made = []
    for sort, name, symbol, *uses in rows:
        near = [row for row in rows if row[0] == sort]
        symbols = pick_wrong(name, symbol, [row[2] for row in near])
        names = pick_wrong(symbol, name, [row[1] for row in near])
        if sort == "element":
            made.append(ask(f"What is the chemical symbol for {name}?", symbol, symbols))
            made.append(ask(f"Which element does {symbol} stand for?", name, names))
        else:
            made.append(ask(f"What is the chemical formula of {name}?", symbol, symbols))
            made.append(ask(f"What is {symbol}?", name, names))
        used = [row[1] for row in near if len(row) > 3]
        made += [ask(f"Which element {use}?", name, pick_wrong(use, name, used)) for use in uses]
    return made
