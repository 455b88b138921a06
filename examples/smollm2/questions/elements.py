"""Elements: the symbol of an element, the element of a symbol, and what kind it is.

Wrong symbols begin like the right one where there are such. Knows nothing of how rows are split.
"""

from collections.abc import Sequence

from questions.question import Question, Row, ask, pick_wrong, read_table

__all__ = ["groups", "questions"]


def groups() -> list[list[Row]]:
    """Give the facts as one group: number, element, symbol, kind."""
    return [read_table("elements")]


def questions(rows: Sequence[Row]) -> list[Question]:
    """Ask three questions of each element."""
    kinds = [row[3] for row in rows if row[3] != "-"]
    made = []
    for number, element, symbol, kind in rows:
        others = [row for row in rows if row[0] != number]
        symbols = pick_wrong(element, symbol, [row[2] for row in others])
        elements = pick_wrong(symbol, element, [row[1] for row in others])
        made.append(ask(f"What is the chemical symbol for {element}?", symbol, symbols))
        made.append(ask(f"Which element has the chemical symbol {symbol}?", element, elements))
        if kind != "-":
            wrong = pick_wrong((element, "kind"), kind, kinds)
            made.append(ask(f"What kind of element is {element}?", kind, wrong))
    return made
