"""Plug-in metrics on every kind of task: what they are given, their weights, and bad numbers."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from gptailor.core.metrics import METRICS, Metric, ScoredExample
from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.splits import TaskSplits

CONTINUATION = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{query}}",
    "doc_to_target": "{{choices[0]}}",
    "doc_to_choice": None,
    "metric_list": [{"metric": "perplexity"}],
}
TEXT = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{query}}",
    "doc_to_choice": None,
    "metric_list": [{"metric": "bits_per_byte"}],
}


@pytest.fixture
def load(
    write_task: Any, questions: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., TaskSplits]:
    """Load a task measured by a metric of the test's own."""
    monkeypatch.setattr(
        METRICS, "_known", dict(METRICS.builtin)
    )  # "mine" is forgotten after each test

    def run(metric: Metric, **keys: Any) -> TaskSplits:
        METRICS.add("mine", metric)
        path = write_task("quiz", {"test": questions(20, 1)}, **keys)
        specs = [TaskSpec(name=str(path), metric="mine")]
        shares = (0.5, 0.2, 0.3)
        return load_tasks(specs, tiny_tokenizer, max_length=64, seed=0, shares=shares)["quiz"]

    return run


def keeping(seen: list[ScoredExample], **facts: Any) -> Metric:
    def measure(example: ScoredExample) -> float:
        seen.append(example)
        return example.texts[example.gold[0]].logprob

    return Metric(True, "nats of the gold answer", measure=measure, **facts)


def test_choices_are_given_with_their_log_likelihoods_and_lengths(
    load: Any, slow_measure: Any, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    seen: list[ScoredExample] = []
    splits = load(keeping(seen))
    assert splits.search.metrics[-1] == "mine"
    seen.clear()
    numbers = slow_measure(tiny_model("llama"), splits.search, 0)
    (example,) = seen
    assert example.output_type == "multiple_choice"
    gold = example.texts[example.gold[0]]
    assert numbers["mine"] == gold.logprob
    assert numbers["gold_bits_per_byte"] == pytest.approx(
        -gold.logprob / gold.n_bytes / math.log(2)
    )
    best = max(range(len(example.texts)), key=lambda index: example.texts[index].logprob)
    assert numbers["acc"] == float(best in example.gold)
    for text, tokens in zip(
        example.texts, splits.search.passages(0)[0].continuations, strict=False
    ):
        assert text.n_tokens == len(tokens)
        assert 1 <= text.n_words <= text.n_characters <= text.n_bytes


@pytest.mark.parametrize(("keys", "kind"), [(CONTINUATION, "loglikelihood"), (TEXT, "rolling")])
def test_continuations_and_texts_are_one_text_with_gold_0(
    keys: dict[str, Any], kind: str, load: Any, slow_measure: Any, tiny_model: Any
) -> None:
    seen: list[ScoredExample] = []
    splits = load(keeping(seen), **keys)
    numbers = slow_measure(tiny_model("llama"), splits.search, 1)
    example = seen[-1]
    assert example.output_type.endswith(kind)
    assert example.gold == (0,)
    (text,) = example.texts
    n_tokens = sum(len(p.continuations[0]) for p in splits.search.passages(1))
    assert text.n_tokens == n_tokens
    assert numbers["mine"] == text.logprob < 0


@pytest.mark.parametrize(
    ("unit", "count"), [("token", "n_tokens"), ("word", "n_words"), ("byte", "n_bytes")]
)
def test_examples_count_by_the_metrics_unit(unit: Any, count: str, load: Any) -> None:
    seen: list[ScoredExample] = []
    splits = load(keeping(seen, unit=unit))
    seen.clear()
    assert splits.search.digest
    sizes = [getattr(one.texts[one.gold[0]], count) for one in seen]
    weights = splits.search.weights("mine", splits.search.n_examples)
    assert (weights or (1.0,) * len(sizes)) == pytest.approx(sizes)


@pytest.mark.parametrize("number", [math.nan, math.inf, 1e300, "3", None])
def test_what_is_no_finite_number_is_refused_before_the_search(number: Any, load: Any) -> None:
    with pytest.raises(TaskError, match=r"the metric .mine. returned .*a finite number"):
        load(Metric(True, "odd", measure=lambda _: number))


def test_a_proxy_that_the_task_has_not_is_refused(load: Any) -> None:
    with pytest.raises(TaskError, match="by 'bits_per_byte', the proxy of 'mine'; its metrics"):
        load(Metric(True, "one", proxy="bits_per_byte", measure=lambda _: 1.0))


def test_the_digest_of_a_task_sees_a_change_of_the_metric(load: Any) -> None:
    digests = {
        load(Metric(True, "n", measure=lambda _, n=n: float(n))).search.digest for n in range(2)
    }
    assert len(digests) == 2


def test_lm_evals_log_likelihoods_are_put_through_it(
    load: Any, slow_measure: Any, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    model = tiny_model("llama")
    splits = load(keeping([], unit="byte"))
    scores = evaluate_model(model, {"quiz": splits}, tokenizer=tiny_tokenizer, max_length=64)
    found = scores.tasks["quiz"]["mine"]
    ours = [slow_measure(model, splits.test, n)["mine"] for n in range(splits.test.n_examples)]
    assert found.values == pytest.approx(ours, abs=2e-4)
    assert found.weights == splits.test.weights("mine", splits.test.n_examples)
