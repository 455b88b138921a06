"""Python: which module of the standard library has a name, and which code does what is wanted.

Wrong answers are other modules, or other code about the same subject.
Knows nothing of how rows are split.
"""

from collections.abc import Sequence

from questions.question import Question, Row, ask, pick_wrong, read_table

__all__ = ["groups", "questions"]


def groups() -> list[list[Row]]:
    """Give the facts by subject: subject, what is wanted, the answer."""
    rows = [("module", *row) for row in read_table("python_functions")] + read_table("python_code")
    return [
        [row for row in rows if row[0] == subject] for subject in dict.fromkeys(r[0] for r in rows)
    ]


def questions(rows: Sequence[Row]) -> list[Question]:
    """Ask one question of each fact."""
    made = []
    for subject, wanted, right in rows:
        wrong = pick_wrong(wanted, right, [row[2] for row in rows if row[0] == subject])
        text = (
            f"Which Python module has {wanted}?"
            if subject == "module"
            else f"Which Python code {wanted}?"
        )
        made.append(ask(text, right, wrong))
    return made
