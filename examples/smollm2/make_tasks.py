"""Make the demo's tasks from tables of facts and templates, with no network.

Run ``python make_tasks.py``; the files in ``tasks/`` are committed, and the same on every machine.
Knows how facts are split, how right answers are placed, and how files are written; the questions
themselves are made in ``questions/``.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from questions import (
    arithmetic,
    capitals,
    chemistry,
    commonsense,
    functions,
    python,
    solutions,
)
from questions.question import Question, Row, shuffled

HERE = Path(__file__).parent
SPLITS = ("search", "report")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Maker(Generic[T]):
    """How one task is made: its facts in groups, and questions or texts from facts."""

    groups: Callable[[], list[list[Row]]]
    make: Callable[[Sequence[Row]], list[T]]


CHOICES = {
    "capitals": Maker(capitals.groups, capitals.questions),
    "chemistry": Maker(chemistry.groups, chemistry.questions),
    "arithmetic": Maker(arithmetic.groups, arithmetic.questions),
    "commonsense": Maker(commonsense.groups, commonsense.questions),
    "python": Maker(python.groups, python.questions),
}
TEXTS = {
    "solutions": Maker(solutions.groups, solutions.texts),
    "functions": Maker(functions.groups, functions.texts),
}
COMMON = """\
# Made by make_tasks.py from tables of facts and templates; change those, not this file.
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{search: {name}.search.jsonl, report: {name}.report.jsonl}}}}
validation_split: search
test_split: report
num_fewshot: 0
"""
CHOICES_YAML = """\
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{gold}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
TEXTS_YAML = """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""


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


def write_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    """Write one JSON object a line."""
    _write(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def make(folder: Path) -> None:
    """Write every task's YAML and splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, maker in CHOICES.items():
        for split, rows in zip(SPLITS, split_facts(maker.groups()), strict=True):
            write_lines(folder / f"{name}.{split}.jsonl", place_answers(maker.make(rows)))
        _write(folder / f"{name}.yaml", COMMON.format(name=name) + CHOICES_YAML)
    for name, writer in TEXTS.items():
        for split, rows in zip(SPLITS, split_facts(writer.groups()), strict=True):
            lines = [{"text": text} for text in shuffled("order", writer.make(rows))]
            write_lines(folder / f"{name}.{split}.jsonl", lines)
        _write(folder / f"{name}.yaml", COMMON.format(name=name) + TEXTS_YAML)


def main() -> None:
    """Read the command line and make the tasks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--output", type=Path, default=HERE / "tasks", help="folder to write to")
    make(parser.parse_args().output)


if __name__ == "__main__":
    main()
