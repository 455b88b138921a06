"""Capitals: of a country or a state of the United States, and whose capital a city is.

Wrong answers are of the same continent. Knows nothing of how rows are split.
"""

from collections.abc import Sequence

from questions.question import Question, Row, ask, pick_wrong, read_table

__all__ = ["groups", "questions"]

STATES = "the United States"


def groups() -> list[list[Row]]:
    """Give the facts by continent: where, country or state, capital."""
    rows = read_table("capitals")
    return [[row for row in rows if row[0] == where] for where in dict.fromkeys(r[0] for r in rows)]


def questions(rows: Sequence[Row]) -> list[Question]:
    """Ask for the capital, and for countries also the other way around."""
    made = []
    for where, land, capital in rows:
        near = [row for row in rows if row[0] == where]
        wrong = pick_wrong(land, capital, [row[2] for row in near])
        named = f"the state of {land}" if where == STATES else land
        made.append(ask(f"What is the capital of {named}?", capital, wrong))
        if where != STATES:
            lands = pick_wrong(capital, land, [row[1] for row in near])
            made.append(ask(f"{capital} is the capital of which country?", land, lands))
    return made
