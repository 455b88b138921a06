"""A finished model scored by lm-eval on the test split, pair by pair with the engine's numbers."""

import random  # noqa: TID251  # its global state must be left alone
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.splits import TaskSplits

SHARES = (0.5, 0.2, 0.3)


@pytest.fixture
def tasks(
    write_task: Any, write_group: Any, questions: Any, texts: Any, tiny_tokenizer: Any
) -> dict[str, TaskSplits]:
    write_task("big", {"test": questions(20)})
    write_task("small", {"test": questions(9, 100)})
    weighting = [{"metric": "acc", "weight_by_size": False}]
    both = write_group("both", ["big", "small"], aggregate_metric_list=weighting)
    wiki = write_task(
        "wiki", {"test": texts(12)}, output_type="loglikelihood_rolling", doc_to_text="",
        doc_to_target="{{text}}", doc_to_choice=None, metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    asked = [
        TaskSpec(name=str(both), metric="acc"),
        TaskSpec(name=str(wiki), metric="bits_per_byte"),
    ]
    return load_tasks(asked, tiny_tokenizer, max_length=64, seed=5, shares=SHARES)


def test_a_live_model_gets_the_numbers_that_the_search_would_give_it(
    tasks: dict[str, TaskSplits], slow_measure: Any, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    model = tiny_model("llama")
    scores = evaluate_model(model, tasks, tokenizer=tiny_tokenizer, max_length=64)
    for name, parts in tasks.items():
        report = parts.test
        for example in range(report.n_examples):
            ours = slow_measure(model, report, example)
            for metric, number in ours.items():
                theirs = scores.tasks[name][metric].values[example]
                assert theirs == pytest.approx(number, abs=2e-4)
        for metric in report.metrics:
            weights = scores.tasks[name][metric].weights
            assert weights == report.weights(metric, report.n_examples)
    assert set(scores.tasks["both"]) == {"acc", "acc_norm", "gold_bits_per_byte", "choice_logprob"}


def test_a_folder_scores_what_the_live_model_scores(
    tasks: dict[str, TaskSplits], pico_family: Any, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    live = evaluate_model(tiny_model("llama"), tasks, tokenizer=tiny_tokenizer, max_length=64)
    folder = evaluate_model(pico_family.base, tasks, max_length=64, dtype="float32", batch_size=3)
    for name, metrics in live.tasks.items():
        for metric, measurement in metrics.items():
            found = folder.tasks[name][metric].values
            np.testing.assert_allclose(found, measurement.values, atol=2e-4)


def test_a_folder_without_a_model_is_refused(tasks: dict[str, TaskSplits], tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="lm-eval can't load it"):
        evaluate_model(tmp_path, tasks)


@pytest.mark.slow
def test_few_shot_and_a_report_of_another_file_are_evaluated_too(
    write_task: Any, questions: Any, slow_measure: Any, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    short = [one for one in questions(60, 1) if len(one["query"]) < 60]
    calib = write_task(
        "calib", {"test": short[:20], "train": short[20:30]}, test_split="test",
        training_split="train", num_fewshot=1,
    )  # fmt: skip
    dev = write_task("dev", {"test": short[18:40]})
    request = TaskSpec(name=str(calib), metric="acc", num_fewshot=0, test_task=str(dev))
    loaded = load_tasks([request], tiny_tokenizer, max_length=64, seed=5, shares=SHARES)
    assert [task.name for task in loaded["calib"].by_name.values()] == ["calib"] * 3
    assert loaded["calib"].test_docs == {"dev": tuple(range(2, 22))}
    assert "2 of 22 test examples are also" in loaded["calib"].notes[0]
    model = tiny_model("llama")
    scores = evaluate_model(model, loaded, tokenizer=tiny_tokenizer, max_length=64)
    report = loaded["calib"].test
    ours = [slow_measure(model, report, example)["acc"] for example in range(report.n_examples)]
    assert list(scores.tasks["calib"]["acc"].values) == ours


def test_nothing_is_printed_and_the_global_random_states_are_left_alone(
    write_task: Any, questions: Any, tiny_model: Any, tiny_tokenizer: Any,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def draws() -> tuple[float, float, float]:
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    def seeded(between: Callable[[], object]) -> tuple[float, float, float]:
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            between()
            return draws()

    def work() -> None:
        path = write_task("quiz", {"test": questions(12)})
        asked = [TaskSpec(name=str(path), metric="acc")]
        loaded = load_tasks(asked, tiny_tokenizer, max_length=64, seed=5, shares=SHARES)
        evaluate_model(tiny_model("llama"), loaded, tokenizer=tiny_tokenizer, max_length=64)

    assert seeded(work) == seeded(lambda: None)
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_the_users_tokenizer_is_not_touched(
    tasks: dict[str, TaskSplits], tiny_model: Any, tiny_tokenizer: Any
) -> None:
    before = (len(tiny_tokenizer), tiny_tokenizer.pad_token, tiny_tokenizer.padding_side)
    evaluate_model(tiny_model("llama"), tasks, tokenizer=tiny_tokenizer, max_length=64)
    assert (len(tiny_tokenizer), tiny_tokenizer.pad_token, tiny_tokenizer.padding_side) == before
