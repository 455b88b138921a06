"""Common sense: places, opposites, kinds, purposes, people, animals, materials, consequences.

Wrong answers come from the same table, so that they are of the right sort.
Knows nothing of how rows are split.
"""

from collections.abc import Sequence

from questions.question import Question, Row, ask, pick_wrong, read_table

__all__ = ["groups", "questions"]

TEMPLATES = {
    "places": "Where would you most likely find {}?",
    "opposites": "What is the opposite of {}?",
    "kinds": "What is {}?",
    "uses": "What does a person use to {}?",
    "people": "Who {}?",
    "young": "What is the young of {} called?",
    "sounds": "What sound does {} make?",
    "materials": "What is {} usually made of?",
    "effects": "What happens when you {}?",
}


def groups() -> list[list[Row]]:
    """Give the facts by table: table, what is asked about, right answer, wrong answers if any."""
    return [[(table, *row) for row in read_table(table)] for table in TEMPLATES]


def questions(rows: Sequence[Row]) -> list[Question]:
    """Ask one question of each fact."""
    made = []
    for table, asked, right, *wrong in rows:
        others = [row[2] for row in rows if row[0] == table]
        text = TEMPLATES[table].format(asked)
        made.append(ask(text, right, wrong or pick_wrong((table, asked), right, others)))
    return made
