"""Make the demo's tasks from tables of facts and templates, with no network.

Run ``python make_tasks.py``; the files in ``tasks/`` are committed, and the same on every machine.
Knows how facts are split, how right answers are placed, and how files are written; the questions
themselves are made in ``questions/``.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from questions import arithmetic, capitals, commonsense, elements, python
from questions.question import Question, Row, shuffled

HERE = Path(__file__).parent
SPLITS = ("search", "report")


@dataclass(frozen=True, slots=True)
class Maker:
    """How one task is made: its facts in groups, and questions from facts."""

    groups: Callable[[], list[list[Row]]]
    questions: Callable[[Sequence[Row]], list[Question]]


CHOICES = {
    "capitals": Maker(capitals.groups, capitals.questions),
    "elements": Maker(elements.groups, elements.questions),
    "arithmetic": Maker(arithmetic.groups, arithmetic.questions),
    "commonsense": Maker(commonsense.groups, commonsense.questions),
    "python": Maker(python.groups, python.questions),
}


def split_facts(groups: Sequence[Sequence[Row]]) -> tuple[list[Row], list[Row]]:
    """Deal each group's facts out to the two splits, so that no fact is in both."""
    search: list[Row] = []
    report: list[Row] = []
    for group in groups:
        order = shuffled("split", group)
        search += order[::2]
        report += order[1::2]
    return search, report


def place_answers(questions: Sequence[Question]) -> list[dict[str, object]]:
    """Put questions in order and each right answer among the wrong, every place equally often."""
    lines = []
    for index, question in enumerate(shuffled("order", questions)):
        gold = index % (len(question.wrong) + 1)
        choices = [*question.wrong[:gold], question.right, *question.wrong[gold:]]
        lines.append({"query": question.query, "choices": choices, "gold": gold})
    return lines


def write_lines(path: Path, lines: Sequence[dict[str, object]]) -> None:
    """Write one JSON object a line."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8", newline="\n")


def make(folder: Path) -> None:
    """Write every task's YAML and splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, maker in CHOICES.items():
        for split, rows in zip(SPLITS, split_facts(maker.groups()), strict=True):
            write_lines(folder / f"{name}.{split}.jsonl", place_answers(maker.questions(rows)))


def main() -> None:
    """Read the command line and make the tasks."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=HERE / "tasks", help="folder to write to")
    make(parser.parse_args().output)


if __name__ == "__main__":
    main()
