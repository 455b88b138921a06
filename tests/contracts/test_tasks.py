"""What every task must keep, whatever it is made of."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptailor.core.metrics import METRICS, aggregate
from gptailor.core.specs import TaskSpec
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.splits import TaskSplits
from gptailor.tasks.task import Outcome

pytestmark = pytest.mark.sampled(3)
MAX_LENGTH = 48
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "{{c}}",
    "doc_to_target": "{{g}}",
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "choice": ("acc", CHOICE),
    "inputs": ("acc_norm", {**CHOICE, "doc_to_text": "{{g}}", "doc_to_target": "{{q}}"}),
    "continuation": (
        "perplexity",
        {"output_type": "loglikelihood", "doc_to_text": "{{q}}", "doc_to_target": "{{c[0]}}"},
    ),
    "text": (
        "bits_per_byte",
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{q}} {{q}} {{q}} {{q}} {{c[1]}}",
        },
    ),
    "written": (
        "exact_match",
        {
            "output_type": "generate_until",
            "doc_to_text": "{{q}}",
            "doc_to_target": "{{c[0]}}",
            "generation_kwargs": {"max_gen_toks": 4},
            "metric_list": [{"metric": "exact_match"}],
        },
    ),
    "group": ("acc", CHOICE),
    "equal group": ("acc", CHOICE),
}


def _write(folder: Path, name: str, keys: dict[str, Any], start: int, n: int) -> Path:
    rows = [
        {"q": f"what is {i} {'x' * (i % 70)}?", "c": [f"one {i}", f"two {i}", "é"], "g": i % 3}
        for i in range(start, start + n)
    ]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"task": name, "test_split": "test", **data, **keys}))
    return path


@pytest.fixture(params=KINDS)
def load(request: Any, tmp_path: Path, tiny_tokenizer: Any) -> Callable[..., TaskSplits]:
    metric, keys = KINDS[request.param]
    path = _write(tmp_path, "plain", keys, 0, 30)
    if "group" in request.param:
        _write(tmp_path, "other", keys, 100, 10)
        path = tmp_path / "both.yaml"
        listed = [{"metric": "acc", "weight_by_size": "equal" not in request.param}]
        both = {"group": "both", "task": ["plain", "other"], "aggregate_metric_list": listed}
        path.write_text(yaml.safe_dump(both))

    def run(seed: int = 0, limit: int | None = None) -> TaskSplits:
        taught = {} if "written" in request.param else {"metric": "divergence", "member": "base"}
        asked = [
            TaskSpec.model_validate({"name": str(path), "metric": metric, "limit": limit} | taught)
        ]
        shares = (0.5, 0.25, 0.25)
        loaded = load_tasks(asked, tiny_tokenizer, max_length=MAX_LENGTH, seed=seed, shares=shares)
        return loaded[path.stem]

    return run


def answers(task: Any, example: int) -> list[list[Outcome]]:
    """Made-up outcomes, unlike for every continuation, and a text where one is asked for."""
    written = [[Outcome(0.0, True, text="one 1")]] if task.examples[example].prompt else []
    scored = [
        [
            Outcome(-1.0 - place - 2.0 * row, False, len(c), 0.25 * len(c))
            for row, c in enumerate(passage.continuations)
        ]
        for place, passage in enumerate(task.passages(example))
    ]
    return scored + written


def parts_of(loaded: TaskSplits) -> list[Any]:
    return [loaded.search, loaded.selection, loaded.test]


def test_passages_can_be_fed_to_a_model(load: Any) -> None:
    for task in parts_of(load()):
        for example in range(task.n_examples):
            passages = task.passages(example)
            assert passages
            for passage in passages:
                assert passage.context
                assert passage.continuations
                for continuation in passage.continuations:
                    assert continuation
                    assert len(passage.context) + len(continuation) <= MAX_LENGTH + 1


def test_every_metric_it_names_is_told_for_every_example_and_no_other(load: Any) -> None:
    for task in parts_of(load()):
        assert set(task.metrics) <= set(METRICS.names)
        for example in range(task.n_examples):
            numbers = task.measure(example, answers(task, example))
            assert tuple(numbers) == task.metrics
            assert all(math.isfinite(number) for number in numbers.values())
            if not task.writes:
                assert numbers["divergence"] == pytest.approx(0.25)


def test_weights_are_positive_and_aggregate(load: Any) -> None:
    task = load().search
    for metric in task.metrics:
        for n in range(1, task.n_examples + 1):
            weights = task.weights(metric, n)
            assert weights is None or (len(weights) == n and min(weights) > 0)
            values = [task.measure(one, answers(task, one))[metric] for one in range(n)]
            assert math.isfinite(aggregate(metric, values, weights))


def test_the_parts_share_no_passages(load: Any) -> None:
    seen = [
        {task.passages(example) for example in range(task.n_examples)} for task in parts_of(load())
    ]
    assert sum(map(len, seen)) == len(set.union(*seen))


def test_a_seed_decides_the_parts_and_their_order(load: Any) -> None:
    first, again, other = load(0), load(0), load(1)
    assert [t.digest for t in parts_of(first)] == [t.digest for t in parts_of(again)]
    assert first.search.digest != other.search.digest
    assert first.test_docs == again.test_docs


def test_a_limit_is_the_beginning_of_the_search_and_changes_nothing_else(load: Any) -> None:
    whole, short = load(), load(limit=4)
    assert short.search.n_examples == 4
    for example in range(4):
        assert short.search.passages(example) == whole.search.passages(example)
    assert short.test.digest == whole.test.digest
    assert short.selection.digest == whole.selection.digest


def test_the_report_documents_are_the_report_part(load: Any) -> None:
    loaded = load()
    assert sorted(loaded.test.origins) == sorted(
        (leaf, index) for leaf, indices in loaded.test_docs.items() for index in indices
    )
