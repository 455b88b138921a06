"""What lm-eval's task objects can do beside the usual: their own metrics, splits and few-shot."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.lm_eval.building import (
    build_examples,
    common_metrics,
    list_documents,
)
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.lm_eval.open_task import as_lm_eval_runs, choose_split, set_fewshot
from gptailor.tasks.task import Outcome

ROWS = {"q": [f"what is {n}?" for n in range(6)], "c": [["a", "bb"]] * 6, "g": [0, 1] * 3}


@pytest.fixture
def make(tiny_tokenizer: Any) -> Callable[..., Any]:
    """An lm-eval task object over `ROWS` as train, validation and test split."""
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    def run(**keys: Any) -> Any:
        config = {
            "task": "t",
            "custom_dataset": lambda **_: {
                split: Dataset.from_dict(ROWS) for split in ("train", "dev", "test")
            },
            "training_split": "train",
            "validation_split": "dev",
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "q",
            "doc_to_choice": "c",
            "doc_to_target": "g",
            **keys,
        }
        with as_lm_eval_runs():
            return TaskManager(include_defaults=False).load([config])["tasks"]["t"]

    return run


@pytest.fixture
def build(tiny_tokenizer: Any) -> Callable[[Any], list[Any]]:
    def run(task: Any) -> list[Any]:
        with as_lm_eval_runs():
            if task.config.num_fewshot is None:
                task.set_config("num_fewshot", 0)
            wanted = list_documents("t", task, "task 't'")
            encoder = Encoder.of(tiny_tokenizer, 64)
            return list(build_examples("task 't'", task, wanted, encoder).values())

    return run


@pytest.mark.slow
def test_a_tasks_own_metrics_are_asked_of_the_task(make: Any, build: Any) -> None:
    def process(doc: Any, results: Any) -> dict[str, Any]:
        return {"acc": float(results[0][0] < -5), "other": 3.0}

    example = build(make(process_results=process, metric_list=[{"metric": "acc"}]))[0]
    assert example.score([Outcome(-7.0, False), Outcome(-9.0, False)])["acc"] == 1.0
    assert example.score([Outcome(-1.0, False), Outcome(-9.0, False)])["acc"] == 0.0
    assert common_metrics([example]) == ("acc", "gold_bits_per_byte", "choice_logprob")


def test_a_text_that_counts_its_own_words_keeps_its_count(make: Any, build: Any) -> None:
    def process(doc: Any, results: Any) -> dict[str, Any]:
        (loglikelihood,) = results
        return {"word_perplexity": (loglikelihood, 77), "bits_per_byte": (loglikelihood, 500)}

    example = build(
        make(
            output_type="loglikelihood_rolling",
            doc_to_target="q",
            doc_to_choice=None,
            process_results=process,
            metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
        )
    )[0]
    assert example.units == {"word_perplexity": 77, "bits_per_byte": 500}
    numbers = example.score([Outcome(-154.0, False)])
    assert numbers["word_perplexity"] == pytest.approx(2.0)
    assert numbers["bits_per_byte"] == pytest.approx(154 / 500 / math.log(2))


def test_the_unconditional_requests_of_mutual_information_are_left_out(
    make: Any, build: Any
) -> None:
    listed = [{"metric": "acc"}, {"metric": "acc_mutual_info"}]
    example = build(make(metric_list=listed))[0]
    assert len(example.positions) == 2
    more = [Outcome(logprob, greedy=False) for logprob in (-2.0, -1.0, -9.0, -9.0)]
    assert example.score(more) == example.score(more[:2])


@pytest.mark.parametrize(
    ("wanted", "split"),
    [(None, "dev"), ("test", "test"), ("validation", "dev"), ("train", "train"), ("dev", "dev")],
)
def test_a_split_is_named_by_the_data_or_by_its_role(
    wanted: str | None, split: str, make: Any
) -> None:
    task = make()
    assert choose_split("task 't'", task, wanted) == split
    assert task.config.test_split == split


def test_without_a_validation_split_the_test_split_is_used(make: Any) -> None:
    assert choose_split("task 't'", make(validation_split=None), None) == "test"


def test_an_unknown_split_is_refused_with_those_there(make: Any) -> None:
    with pytest.raises(TaskError, match=r"unknown split 'tst'; did you mean 'test'\? known: train"):
        choose_split("task 't'", make(), "tst")


def test_few_shot_numbers_are_set_as_lm_eval_sets_them(make: Any) -> None:
    task = make()
    assert set_fewshot("t", task, None) == (None, [])
    assert task.config.num_fewshot == 0
    assert set_fewshot("t", make(num_fewshot=3), None) == ("train", [])
    source, notes = set_fewshot("t", make(num_fewshot=0), 5)
    assert source is None
    assert notes == ["task 't': its own num_fewshot of 0 is kept, as lm-eval keeps it"]
    assert set_fewshot("t", make(fewshot_split="dev"), 2) == ("dev", [])


def test_a_question_is_never_among_its_own_worked_examples(make: Any, build: Any) -> None:
    task = make(training_split=None)  # so that lm-eval draws from the validation split
    source, _ = set_fewshot("t", task, 4)
    assert (source, choose_split("task 't'", task, "dev")) == ("dev", "dev")
    with as_lm_eval_runs():
        documents = list_documents("t", task, "task 't'")
        task.set_fewshot_seed(0)
        task.build_all_requests(rank=0, world_size=1)
    for instance in task.instances:
        question = documents[instance.doc_id].raw[0]
        assert instance.args[0].count(question) == 1


def test_worked_examples_from_the_reports_split_are_refused(
    write_task: Any, questions: Any, tiny_tokenizer: Any
) -> None:
    path = write_task("quiz", {"test": questions(12, 1), "train": questions(12, 51)},
                      test_split="test", training_split="train")  # fmt: skip

    def load(**keys: Any) -> Any:
        asked = [TaskSpec(name=str(path), metric="acc", num_fewshot=1, **keys)]
        shares = (0.5, 0.2, 0.3)
        return load_tasks(asked, tiny_tokenizer, max_length=64, seed=0, shares=shares)

    assert load(split="test")["quiz"].search.n_examples == 6
    for keys in ({"split": "train"}, {"split": "test", "test_split": "train"}):
        with pytest.raises(TaskError, match="few-shot examples come from the split 'train'"):
            load(**keys)


@pytest.mark.slow
def test_lm_evals_own_tasks_are_known_by_name(tiny_tokenizer: Any, write_group: Any) -> None:
    def load(name: str) -> Any:
        shares = (0.5, 0.2, 0.3)
        asked = [TaskSpec(name=name, metric="acc")]
        return load_tasks(asked, tiny_tokenizer, max_length=64, seed=0, shares=shares)

    with pytest.raises(TaskError, match="unknown task 'arc_eazy'; did you mean 'arc_easy'"):
        load("arc_eazy")
    with pytest.raises(TaskError, match="data are not on this machine"):
        load("arc_easy")
    with pytest.raises(TaskError, match="unknown task 'no_such_task'"):
        load(str(write_group("mine", ["no_such_task"])))
    with pytest.raises(TaskError, match="data are not on this machine"):
        load(str(write_group("mine", ["arc_easy"])))
