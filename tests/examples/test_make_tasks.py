"""The demo's tasks: the same on every machine, without leaks, and true."""

import ast
import codeop
import importlib
import json
import operator
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

CHOICES = ("arithmetic", "capitals", "chemistry", "commonsense", "python")
TEXTS = ("functions", "solutions")
SPLITS = ("search", "report")
OPERATIONS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


def read_lines(demo: Path, task: str, split: str) -> list[dict[str, Any]]:
    text = (demo / "tasks" / f"{task}.{split}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def read_both(demo: Path, task: str) -> list[dict[str, Any]]:
    return [line for split in SPLITS for line in read_lines(demo, task, split)]


def read_table(demo: Path, name: str) -> list[list[str]]:
    lines = (demo / "facts" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def right_of(line: dict[str, Any]) -> str:
    return str(line["choices"][line["gold"]])


def public_names(module: str) -> set[str]:
    """What a module offers; what it merely imports for itself does not count."""
    found = vars(importlib.import_module(module))
    return set(found.get("__all__", found))


def result_of(calculation: str) -> tuple[str, bool]:
    """The operation of ``8+2=10``, and whether the result is right."""
    found = re.fullmatch(r"\$?(\d+) ?([-+*/]) ?\$?(\d+) ?= ?\$?(-?\d+)", calculation)
    assert found is not None, calculation
    a, operation, b, result = found.groups()
    return operation, OPERATIONS[operation](int(a), int(b)) == int(result)


def test_made_again_the_tasks_are_the_same_to_the_byte(demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(demo / "make_tasks.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    committed = {path.name: path.read_bytes() for path in (demo / "tasks").iterdir()}
    assert made == committed


def test_the_tasks_are_small(demo: Path) -> None:
    assert sum(path.stat().st_size for path in (demo / "tasks").iterdir()) < 1_000_000


@pytest.mark.parametrize("task", CHOICES)
def test_every_question_has_four_different_answers(demo: Path, task: str) -> None:
    for line in read_both(demo, task):
        assert len(line["choices"]) == len(set(line["choices"])) == 4, line
        assert line["query"].endswith("\nAnswer:")


@pytest.mark.parametrize("task", CHOICES)
@pytest.mark.parametrize("split", SPLITS)
def test_the_right_answer_stands_in_every_place_equally_often(
    demo: Path, task: str, split: str
) -> None:
    places = Counter(line["gold"] for line in read_lines(demo, task, split))
    assert sorted(places) == [0, 1, 2, 3]
    assert max(places.values()) - min(places.values()) <= 1


@pytest.mark.parametrize("task", CHOICES + TEXTS)
def test_no_question_is_asked_twice(demo: Path, task: str) -> None:
    asked = [line.get("query", line.get("text")) for line in read_both(demo, task)]
    assert len(asked) == len(set(asked)) >= 200


@pytest.mark.parametrize("task", ["capitals", "chemistry"])
def test_what_one_split_asks_about_is_not_in_the_other(demo: Path, task: str) -> None:
    told = [
        {answer for line in read_lines(demo, task, split) for answer in line["choices"]}
        for split in SPLITS
    ]
    assert told[0].isdisjoint(told[1])


@pytest.mark.parametrize("split", SPLITS)
def test_only_the_right_calculation_is_both_fitting_and_right(demo: Path, split: str) -> None:
    for line in read_lines(demo, "arithmetic", split):
        told = [result_of(choice) for choice in line["choices"]]
        operation, correct = told[line["gold"]]
        assert correct
        assert told.count((operation, True)) == told.count((operation, False)) == 1
        others = [one for one in told if one[0] != operation]
        assert sorted(correct for _, correct in others) == [False, True]


def test_every_step_of_a_solution_is_right(demo: Path) -> None:
    for line in read_both(demo, "solutions"):
        steps = re.findall(r"\$?\d+ [-+*/] \$?\d+ = \$?\d+", line["text"])
        assert len(steps) == 2, line
        assert all(result_of(step)[1] for step in steps), line
        assert line["text"].endswith("#### " + re.findall(r"\d+", steps[-1])[-1])


def test_every_function_runs(demo: Path) -> None:
    for line in read_both(demo, "functions"):
        code = line["text"].partition("### Response:\n")[2]
        tree = ast.parse(code)
        assert [type(node) for node in tree.body] == [ast.FunctionDef], code


def test_every_name_is_in_its_module_and_in_no_other_choice(demo: Path) -> None:
    for line in read_both(demo, "python"):
        found = re.search(r"Which Python module has (\w+)\?", line["query"])
        if found is None:
            continue
        has = [found[1] in public_names(module) for module in line["choices"]]
        assert has.index(True) == line["gold"], line
        assert sum(has) == 1, line


def test_every_code_of_the_table_is_python(demo: Path) -> None:
    for _, _, code in read_table(demo, "python_code"):
        indented = f"while x:\n    {code}" if code in ("break", "continue") else code
        if code == "return x":
            indented = f"def f():\n    {code}"
        if code.startswith(("else", "except")):
            continue  # half a statement
        codeop.compile_command(indented)  # a SyntaxError where no continuation could mend it


@pytest.mark.parametrize(
    ("table", "n_columns", "column"),
    [
        ("capitals", 3, 2),
        ("capitals", 3, 1),
        ("elements", 3, 1),
        ("elements", 3, 2),
        ("formulas", 2, 1),
        ("opposites", 2, 0),
        ("places", 2, 0),
        ("python_functions", 2, 0),
    ],
)
def test_no_fact_stands_twice(demo: Path, table: str, n_columns: int, column: int) -> None:
    rows = read_table(demo, table)
    assert {len(row) for row in rows} == {n_columns}
    assert len({row[column] for row in rows}) == len(rows)


@pytest.mark.slow
def test_lm_eval_reads_every_task(demo: Path, tiny_tokenizer: Any) -> None:
    from gptailor.core.specs import TaskSpec
    from gptailor.tasks.lm_eval.load_tasks import load_tasks

    requests = [
        TaskSpec(
            name=str(demo / "tasks" / f"{task}.yaml"),
            metric=metric,
            split="search",
            test_split="report",
        )
        for names, metric in ((CHOICES, "acc"), (TEXTS, "bits_per_byte"))
        for task in names
    ]
    parts = load_tasks(requests, tiny_tokenizer, max_length=512, seed=0, shares=(0.6, 0.2, 0.2))
    assert sorted(parts) == sorted(CHOICES + TEXTS)
    for name, part in parts.items():
        n_report = len(read_lines(demo, name, "report"))
        assert part.test.n_examples == n_report, part.notes
        assert part.search.n_examples >= 60
