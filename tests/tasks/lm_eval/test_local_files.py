"""Task files of the user's own: found from anywhere, read anew, and refused with a sentence."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.lm_eval.local_files import is_path, read_task_file
from gptailor.tasks.splits import TaskSplits


@pytest.fixture
def load(tiny_tokenizer: Any) -> Callable[..., TaskSplits]:
    def run(path: Path | str, metric: str = "acc", **keys: Any) -> TaskSplits:
        request = TaskSpec(name=str(path), metric=metric, **keys)
        shares = (0.5, 0.2, 0.3)
        (parts,) = load_tasks(
            [request], tiny_tokenizer, max_length=64, seed=0, shares=shares
        ).values()
        return parts

    return run


@pytest.mark.parametrize(
    ("name", "path"),
    [("mmlu", False), ("./a.yaml", True), ("a.yml", True), ("tasks/x", True), ("arc_easy", False)],
)
def test_a_name_with_a_slash_or_ending_is_a_path(name: str, path: bool) -> None:
    assert is_path(name) is path


def test_data_files_are_found_beside_the_yaml_from_any_folder(
    write_task: Any, questions: Any, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_task("quiz", {"test": questions(20, 1)})
    other = tmp_path / "elsewhere"
    other.mkdir()
    digests = []
    for folder in (other, path.parent, tmp_path):
        monkeypatch.chdir(folder)
        digests.append(load(f"./{os.path.relpath(path)}").search.digest)
    assert len(set(digests)) == 1
    assert list(other.iterdir()) == []


def test_changed_data_are_read_anew(write_task: Any, questions: Any, load: Any) -> None:
    before = load(write_task("quiz", {"test": questions(20, 1)})).search.digest
    after = load(write_task("quiz", {"test": questions(20, 50)})).search.digest
    assert before != after


def test_includes_are_merged_and_their_files_are_beside_them(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    shared = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "x.jsonl"}}}
    (tmp_path / "deep" / "common.yaml").write_text(yaml.safe_dump({**shared, "task": "common"}))
    (tmp_path / "mine.yaml").write_text("task: mine\ninclude: deep/common.yaml\n")
    config = read_task_file(tmp_path / "mine.yaml")
    assert config["task"] == "mine"
    assert config["dataset_kwargs"]["data_files"]["test"] == str(tmp_path / "deep" / "x.jsonl")


def test_groups_may_nest_and_hold_tasks_of_their_own(
    write_task: Any, write_group: Any, questions: Any, load: Any
) -> None:
    write_task("one", {"test": questions(10, 1)})
    path = write_task("two", {"test": questions(10, 31)})
    inside = yaml.safe_load(path.read_text()) | {"task": "inside"}
    write_task("three", {"test": questions(10, 61)})
    inside["dataset_kwargs"] = {"data_files": {"test": "three.test.jsonl"}}
    write_group("inner", ["one", "two"])
    outer = load(write_group("outer", ["inner", inside]))
    leaves = {leaf for leaf, _ in outer.search.origins}
    assert leaves == {"one", "two", "outer::inside"}
    assert outer.search.n_examples + outer.selection.n_examples + outer.test.n_examples == 30
    assert any("does not say how its 3 tasks add up" in note for note in outer.notes)


def test_a_faulty_neighbour_does_not_matter_until_the_group_asks_for_it(
    write_task: Any, write_group: Any, questions: Any, load: Any
) -> None:
    path = write_task("good", {"test": questions(10, 1)})
    (path.parent / "bad.yaml").write_text("task: [")
    assert load(write_group("g", ["good"])).search.n_examples == 5
    with pytest.raises(TaskError, match=r"group 'g' needs a file .*bad\.yaml, line 1"):
        load(write_group("g", ["good", "bad"]))


def test_a_group_that_holds_itself_is_refused(write_group: Any, load: Any) -> None:
    write_group("a", ["b"])
    write_group("b", ["a"])
    with pytest.raises(TaskError, match="group 'a' holds itself: a > b > a"):
        load(write_group("a", ["b"]))


GOOD: dict[str, Any] = {"query": "q", "choices": ["a", "b"], "gold": 0}
BAD_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"doc_to_txt": "x"}, r"unknown key 'doc_to_txt'; did you mean 'doc_to_text'"),
    ({"doc_to_text": "{{quer}}"}, r"line 1\): doc_to_text: UndefinedError: 'quer' is undefined"),
    ({"doc_to_text": "{{query"}, r"doc_to_text: is not a usable template: unexpected end of"),
    ({"doc_to_choice": "{{query}}"}, r"quiz\.test\.jsonl, line 1\): doc_to_choice: is no list"),
    ({"doc_to_choice": 5}, r"doc_to_choice: must be text, in quotes"),
    ({"doc_to_text": ["x"]}, r"doc_to_text: must be text, in quotes"),
    ({"description": 5}, r"description: must be text, in quotes"),
    ({"description": "{{quer}}"}, r"example \d+ \(.*: description: UndefinedError: 'quer' is und"),
    ({"doc_to_target": "{% for %}"}, r"doc_to_target: is not a usable template: "),
    ({"num_fewshot": -1}, r"num_fewshot: must be greater than or equal to 0, not -1"),
    ({"num_fewshot": True}, r"num_fewshot: must be a whole number, not True"),
    ({"repeats": 3}, r"repeats: must be 1, not 3"),
    ({"metadata": {"data_files": "x"}}, r"lm-eval can't build it"),
    ({"output_type": "generate_until"}, r"max_gen_toks: is 256, and a model is fed 64 tokens"),
    (
        {"filter_list": [{"name": "x", "filter": [{"function": "lowercase"}]}]},
        r"filter_list: acts on text that a model writes",
    ),
    ({"output_type": None}, r"max_gen_toks: is 256, and a model is fed 64 tokens"),
    ({"test_split": "dev"}, r"test_split: unknown split 'dev'; known: test"),
    ({"metric_list": ["acc"]}, r"metric_list\[0\]: must be a mapping"),
    ({"metric_list": [{"metric": "acc_nrm"}]}, r"unknown metric 'acc_nrm'; did you mean"),
    ({"dataset_path": None}, r"dataset_path is None; give 'json'"),
    ({"dataset_kwargs": {"data_files": {"test": 5}}}, r"data_files is \{'test': 5\}"),
    ({"dataset_kwargs": None}, r"data_files is None"),
    ({"dataset_kwargs": "x"}, r"dataset_kwargs: must be a mapping"),
    ({"dataset_kwargs": {"data_files": {"test": "no.jsonl"}}}, r"no\.jsonl does not exist"),
    ({"target_delimiter": 5}, r"target_delimiter: must be text"),
    ({"unsafe_code": True}, r"runs code"),
    ({"include": "none.yaml"}, r"none\.yaml: no such file"),
    ({"include": 3}, r"include is 3"),
    ({"include": "quiz.yaml"}, r"includes itself"),
    ({"task": 5}, r"task is 5; it must be the name"),
    ({"group": "quiz", "task": 7}, r"group 'quiz' has no tasks"),
]


@pytest.mark.parametrize(("keys", "sentence"), BAD_KEYS)
def test_a_malformed_task_file_is_refused_with_a_sentence(
    keys: dict[str, Any], sentence: str, write_task: Any, questions: Any, load: Any
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)}, **keys)
    with pytest.raises(TaskError, match=sentence) as caught:
        load(path)
    assert "quiz" in str(caught.value) or "none.yaml" in str(caught.value)


BAD_LINES: list[tuple[Any, str]] = [
    ('{"query": ', r"quiz\.test\.jsonl, line 12: not usable as JSON"),
    ("[1]", r"line 12: not a JSON object but list"),
    (
        {**GOOD, "gold": 2},
        r"example 11 \(.*quiz\.test\.jsonl, line 12\): the gold answer is 2, which is none",
    ),
    (
        {**GOOD, "gold": -1},
        r"example 11 \(.*quiz\.test\.jsonl, line 12\): the gold answer is '-1'",
    ),
    (
        {**GOOD, "choices": ["a", ""]},
        r"example 11 \(.*quiz\.test\.jsonl, line 12\): choice 2 is empty",
    ),
    ({**GOOD, "choices": ["a"]}, r"example 11 \(.*quiz\.test\.jsonl, line 12\): it has 1 choices"),
    ({**GOOD, "choices": []}, r"example 11 \(.*quiz\.test\.jsonl, line 12\): it has 0 choices"),
    ({**GOOD, "query": 5}, r"jsonl, line 12: the values of 'query' don't all fit one type"),
    ({**GOOD, "gold": 10**30}, r"jsonl, line 12: the values of 'gold' don't all fit one type"),
    (
        {**GOOD, "query": " \n"},
        r"example 11 \(.*quiz\.test\.jsonl, line 12\): the context is nothing but white space",
    ),
    ({**GOOD, "choices": ["#" * 100, "b"]}, r"tokens, more than the 64 .* raise max_length"),
]


@pytest.mark.parametrize(("line", "sentence"), BAD_LINES)
def test_a_malformed_example_is_refused_with_its_number(
    line: Any, sentence: str, write_task: Any, questions: Any, load: Any
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)})
    data = path.parent / "quiz.test.jsonl"
    with data.open("a", encoding="utf-8") as file:
        file.write("\n")  # an empty line counts as a line, and as no example
        file.write(line if isinstance(line, str) else json.dumps(line))
    with pytest.raises(TaskError, match=sentence):
        load(path)


FIRST: list[tuple[dict[str, Any], str]] = [
    ({"gold": 2}, r"the gold answer is 2, which is none of its 2 choices \['a', 'b'\]"),
    ({"gold": -1}, r"the gold answer is '-1'"),
    ({"choices": []}, r"it has 0 choices; two at least are needed"),
    ({"choices": ["a"]}, r"it has 1 choices; two at least are needed"),
    ({"choices": ["", "b"]}, r"choice 1 is empty: \['', 'b'\]"),
    ({"choices": [1, 2]}, r"choice 1 is 1; choices must be text"),
    ({"choices": "ab"}, r"doc_to_choice: is no list"),
]


@pytest.mark.parametrize(("keys", "sentence"), FIRST)
def test_a_malformed_first_example_is_refused_with_its_line(
    keys: dict[str, Any], sentence: str, write_task: Any, questions: Any, load: Any
) -> None:
    path = write_task("quiz", {"test": [GOOD | keys | {"query": f"q{n}"} for n in range(10)]})
    start = rf"quiz\.yaml: task 'quiz', example 1 \(.*quiz\.test\.jsonl, line 1\): .*{sentence}"
    with pytest.raises(TaskError, match=start):
        load(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe", b"[", b"[]"])
def test_data_that_are_no_json_are_refused(
    content: bytes, write_task: Any, questions: Any, load: Any
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)})
    (path.parent / "quiz.test.jsonl").write_bytes(content)
    with pytest.raises(TaskError, match=r"quiz\.test\.jsonl: (holds no|not UTF-8|not usable)"):
        load(path)


def test_a_task_file_that_calls_code_is_refused_and_the_code_is_not_run(
    write_task: Any, questions: Any, load: Any, tmp_path: Path
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)})
    witness = tmp_path / "ran"
    (path.parent / "evil.py").write_text(f"open({str(witness)!r}, 'w')\ndef f(doc): return ''\n")
    path.write_text(path.read_text() + "process_docs: !function evil.f\n")
    with pytest.raises(TaskError, match=r"calls Python code with !function"):
        load(path)
    assert not witness.exists()


def test_a_json_list_and_a_byte_order_mark_are_read(
    write_task: Any, questions: Any, load: Any
) -> None:
    path = write_task("quiz", {"test": questions(10, 1)})
    lines = load(path).search.digest
    data = path.parent / "quiz.test.jsonl"
    data.write_text(json.dumps(questions(10, 1)), encoding="utf-8-sig")
    assert load(path).search.digest == lines


def test_all_faults_of_all_tasks_are_told_at_once(
    write_task: Any, questions: Any, tiny_tokenizer: Any
) -> None:
    one = write_task("one", {"test": questions(10, 1)}, doc_to_txt="", test_split="dev")
    asked = [TaskSpec(name=str(one), metric="acc"), TaskSpec(name="./none.yaml", metric="acc")]
    with pytest.raises(TaskError) as caught:
        load_tasks(asked, tiny_tokenizer, max_length=64, seed=0, shares=(0.5, 0.2, 0.3))
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "doc_to_txt" in told
    assert "unknown split 'dev'" in told
    assert "none.yaml: no such file" in told
