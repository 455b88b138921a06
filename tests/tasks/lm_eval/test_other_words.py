"""Files and words as other versions of lm-eval have them: tags, folders of data, old keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from gptailor.config import config_of
from gptailor.core.specs import TaskSpec
from gptailor.errors import ConfigError, TaskError
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.splits import TaskSplits


@pytest.fixture
def load(tiny_tokenizer: Any) -> Callable[..., TaskSplits]:
    def run(path: Path, metric: str = "acc") -> TaskSplits:
        spec, shares = TaskSpec(name=str(path), metric=metric), (0.5, 0.2, 0.3)
        found = load_tasks([spec], tiny_tokenizer, max_length=64, seed=0, shares=shares)
        return next(iter(found.values()))

    return run


@pytest.mark.parametrize("tag", ["science", ["other", "science"]])
def test_a_group_may_name_a_tag(
    write_task: Any, write_group: Any, questions: Any, load: Any, tag: object
) -> None:
    write_task("one", {"test": questions(12)}, tag=tag)
    write_task("two", {"test": questions(12, 50)}, tag=tag)
    write_task("three", {"test": questions(12, 90)})
    parts = load(write_group("both", ["science"]))
    assert {subtask for subtask, _ in parts.search.origins} == {"one", "two"}
    parts = load(write_group("all", ["science", "three"]))
    assert {subtask for subtask, _ in parts.search.origins} == {"one", "two", "three"}


def test_a_task_file_that_still_names_a_group_is_told_the_new_key(
    write_task: Any, questions: Any, load: Any
) -> None:
    for group in ("science", ["science"]):
        path = write_task("one", {"test": questions(12)}, group=group)
        with pytest.raises(TaskError, match=r"the file of task 'one' names a group .* 'tag'"):
            load(path)


def test_parquet_may_name_its_folder(write_task: Any, questions: Any, load: Any) -> None:
    path = write_task("one", {"test": questions(12)})
    (path.parent / "data").mkdir()
    Dataset.from_list(questions(20)).to_parquet(path.parent / "data" / "test-00000.parquet")
    path = write_task(
        "folder", {"test": []}, dataset_path="parquet", dataset_kwargs={"data_dir": "data"}
    )
    assert sum(task.n_examples for task in load(path).by_name.values()) == 20


def test_a_metric_as_lm_eval_prints_it_is_told_its_name(
    write_task: Any, questions: Any, load: Any
) -> None:
    path = write_task("one", {"test": questions(12)})
    with pytest.raises(TaskError, match=r"prints 'acc' where no filter is used; write acc$"):
        load(path, "acc,none")
    with pytest.raises(ValueError, match="did you mean 'acc_norm'"):
        load(path, "acc_norm,none")


@pytest.mark.parametrize(
    ("key", "ours"),
    [("task", "name"), ("validation_split", "split"), ("report_split", "test_split")],
)
def test_other_words_for_a_key_of_a_task_are_told_ours(key: str, ours: str) -> None:
    task = {"name": "quiz", "metric": "acc", key: "x"}
    with pytest.raises(ConfigError, match=rf"tasks\[0\]: there is no '{key}' here; write {ours}"):
        config_of({"family": {"base": "./base"}, "remove": 1, "tasks": [task]})
