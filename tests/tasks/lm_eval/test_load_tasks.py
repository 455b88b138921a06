"""Our scores are lm-eval's own, to the example."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gptailor.core.metrics import aggregate
from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.splits import TaskSplits

SHARES = (0.5, 0.2, 0.3)
ALL = ("search", "selection", "test")


def load(path: Path, metric: str, tokenizer: Any, **keys: Any) -> TaskSplits:
    request = TaskSpec(name=str(path), metric=metric, **keys)
    (parts,) = load_tasks([request], tokenizer, max_length=64, seed=3, shares=SHARES).values()
    return parts


def by_document(results: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    samples = results["samples"]
    return {(leaf, one["doc_id"]): one for leaf in samples for one in samples[leaf]}


@dataclass(frozen=True)
class Bench:
    """A model, its tokenizer, lm-eval as the judge, and the slow way to ask."""

    model: Any
    tokenizer: Any
    judge: Callable[..., dict[str, Any]]
    slow_measure: Callable[..., dict[str, float]]

    def measure(self, part: Any, example: int) -> dict[str, float]:
        return self.slow_measure(self.model, part, example)

    def theirs(self, path: Path, **options: Any) -> dict[str, Any]:
        return self.judge(self.model, self.tokenizer, path, **options)


@pytest.fixture
def bench(tiny_model: Any, tiny_tokenizer: Any, judge: Any, slow_measure: Any) -> Bench:
    return Bench(tiny_model("llama"), tiny_tokenizer, judge, slow_measure)


def check_parts(
    parts: TaskSplits,
    theirs: dict[tuple[str, int], dict[str, Any]],
    convert: dict[str, Callable[[Any], float]],
    measure: Callable[..., dict[str, float]],
) -> int:
    """Hold every example of every part against lm-eval's; how many there were."""
    n = 0
    for part in (parts.search, parts.selection, parts.test):
        for example, origin in enumerate(part.origins):
            numbers = measure(part, example)
            for metric, read in convert.items():
                assert numbers[metric] == pytest.approx(read(theirs[origin][metric]), abs=2e-4)
            n += 1
    return n


def test_multiple_choice_scores_are_lm_evals_to_the_example(
    write_task: Any, questions: Any, bench: Bench
) -> None:
    path = write_task("quiz", {"test": questions(30)})
    parts = load(path, "acc", bench.tokenizer)
    results = bench.theirs(path)
    theirs = by_document(results)
    assert check_parts(parts, theirs, {"acc": float, "acc_norm": float}, bench.measure) == 30
    everything = [
        bench.measure(part, example)["acc"]
        for part in (parts.search, parts.selection, parts.test)
        for example in range(part.n_examples)
    ]
    assert aggregate("acc", everything) == pytest.approx(results["results"]["quiz"]["acc,none"])


@pytest.mark.slow
def test_log_likelihoods_are_lm_evals_choice_by_choice(
    write_task: Any, questions: Any, bench: Bench, slow_outcome: Any
) -> None:
    path = write_task("quiz", {"test": questions(20)})
    parts = load(path, "acc", bench.tokenizer)
    theirs = by_document(bench.theirs(path))
    n_split = 0
    everything = [
        pair
        for part in (parts.search, parts.selection, parts.test)
        for pair in zip(part.examples, part.origins, strict=True)
    ]
    for example, origin in everything:
        outcomes = [
            [slow_outcome(bench.model, p.context, c) for c in p.continuations]
            for p in example.passages
        ]
        n_split += len(outcomes) > 1
        ours = example.in_order(outcomes)
        for one, (their_ll, their_greedy) in zip(
            ours, theirs[origin]["filtered_resps"], strict=True
        ):
            assert one.logprob == pytest.approx(their_ll, abs=2e-4)
            assert one.greedy == their_greedy
    assert n_split, "a context that was cut differently for each choice must be among them"


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", ["winogrande", "names", "several"])
def test_other_ways_to_name_the_right_answer(kind: str, write_task: Any, bench: Bench) -> None:
    keys: dict[str, Any]
    if kind == "winogrande":  # the choices stand in the context, the same text follows
        rows = [
            {"choices": [f"gold {n} is", f"iron {n} has"], "gold": n % 2, "end": f"five {n}"}
            for n in range(12)
        ]
        keys = {"doc_to_text": "{{gold}}", "doc_to_target": "{{end}}"}
    elif kind == "names":
        rows = [
            {"query": f"q {n}", "choices": [f"a{n}", f"bb{n}"], "gold": f"bb{n}"} for n in range(12)
        ]
        keys = {"doc_to_target": "gold"}
    else:
        rows = [
            {"query": f"q {n}", "choices": [f"a{n}", "bb", "c"], "gold": [n % 3, 2]}
            for n in range(12)
        ]
        keys = {"doc_to_target": "gold"}
    path = write_task("quiz", {"test": rows}, **keys)
    parts = load(path, "acc_norm", bench.tokenizer)
    theirs = by_document(bench.theirs(path))
    assert check_parts(parts, theirs, {"acc": float, "acc_norm": float}, bench.measure) == 12


def test_continuations_are_scored_as_lm_eval_scores_them(write_task: Any, bench: Bench) -> None:
    rows = [
        {"q": "" if n == 2 else f"the capital {n} of " * n, "a": f"Paris {n}"} for n in range(12)
    ]
    path = write_task(
        "lambada", {"test": rows}, output_type="loglikelihood", doc_to_text="{{q}}",
        doc_to_target="{{a}}", doc_to_choice=None,
        metric_list=[{"metric": "perplexity"}, {"metric": "acc"}],
    )  # fmt: skip
    parts = load(path, "perplexity", bench.tokenizer)
    results = bench.theirs(path)
    convert = {"perplexity": lambda ll: -ll, "acc": float}
    assert check_parts(parts, by_document(results), convert, bench.measure) == 12
    nats = [
        bench.measure(getattr(parts, part), example)["perplexity"]
        for part in ALL
        for example in range(getattr(parts, part).n_examples)
    ]
    assert aggregate("perplexity", nats) == pytest.approx(
        results["results"]["lambada"]["perplexity,none"], rel=1e-4
    )


def test_texts_longer_than_the_window_are_scored_as_lm_eval_scores_them(
    write_task: Any, texts: Any, bench: Bench
) -> None:
    names = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    path = write_task(
        "wiki", {"test": texts(12)}, output_type="loglikelihood_rolling", doc_to_text="",
        doc_to_target="{{text}}", doc_to_choice=None, metric_list=[{"metric": n} for n in names],
    )  # fmt: skip
    parts = load(path, "bits_per_byte", bench.tokenizer)
    results = bench.theirs(path)
    assert max(len(parts.search.passages(n)) for n in range(parts.search.n_examples)) > 2
    convert = {
        "word_perplexity": lambda pair: -pair[0] / pair[1],
        "byte_perplexity": lambda pair: -pair[0] / pair[1],
        "bits_per_byte": lambda pair: -pair[0] / pair[1] / math.log(2),
    }
    assert check_parts(parts, by_document(results), convert, bench.measure) == 12
    for name in names:
        values, weights = [], []
        for part in (parts.search, parts.selection, parts.test):
            n = part.n_examples
            values += [bench.measure(part, example)[name] for example in range(n)]
            weights += part.weights(name, n) or []
        assert aggregate(name, values, weights) == pytest.approx(
            results["results"]["wiki"][f"{name},none"], rel=1e-4
        )


@pytest.mark.slow
@pytest.mark.parametrize("by_size", [True, False])
def test_groups_are_weighted_as_lm_eval_weights_them(
    by_size: bool, write_task: Any, write_group: Any, questions: Any, bench: Bench
) -> None:  # fmt: skip
    write_task("big", {"test": questions(24)})
    write_task("small", {"test": questions(8, 100)})
    weighting = [{"metric": "acc", "weight_by_size": by_size}]
    path = write_group("both", ["big", "small"], aggregate_metric_list=weighting)
    parts = load(path, "acc", bench.tokenizer)
    samples = {leaf: list(docs) for leaf, docs in parts.test_docs.items()}
    results = bench.theirs(path, samples=samples)
    report = parts.test
    values = [bench.measure(report, n)["acc"] for n in range(report.n_examples)]
    weights = report.weights("acc", report.n_examples)
    assert (weights is None) == by_size
    assert aggregate("acc", values, weights) == pytest.approx(
        results["results"]["both"]["acc,none"]
    )
    assert sorted(samples) == ["big", "small"]


def test_few_shot_requests_are_lm_evals_own(write_task: Any, questions: Any, bench: Bench) -> None:
    short = [one for one in questions(40, 1) if len(one["query"]) < 60]
    data = {"test": short[:12], "train": short[12:]}
    path = write_task("quiz", data, test_split="test", training_split="train", num_fewshot=1)
    parts = load(path, "acc", bench.tokenizer)
    for part in (parts.test, parts.search):
        docs = sorted(index for _, index in part.origins)
        theirs = by_document(bench.theirs(path, samples={"quiz": docs}))
        shots = {n: one["arguments"][0][0] for n, one in theirs.items()}
        assert all("\n\n" in text for text in shots.values())
        for example, origin in enumerate(part.origins):
            numbers = bench.measure(part, example)
            assert numbers["acc"] == theirs[origin]["acc"]
            assert numbers["acc_norm"] == theirs[origin]["acc_norm"]


@pytest.mark.slow
def test_a_tokenizer_that_adds_its_own_beginning_is_followed(
    write_task: Any, texts: Any, questions: Any, bench: Bench, bos_tokenizer: Any
) -> None:  # fmt: skip
    bench = dataclasses.replace(bench, tokenizer=bos_tokenizer)
    path = write_task("quiz", {"test": questions(12)})
    parts = load(path, "acc", bench.tokenizer)
    theirs = by_document(bench.theirs(path))
    check_parts(parts, theirs, {"acc": float, "acc_norm": float}, bench.measure)
    path = write_task(
        "wiki", {"test": texts(6)}, output_type="loglikelihood_rolling", doc_to_text="",
        doc_to_target="{{text}}", doc_to_choice=None, metric_list=[{"metric": "bits_per_byte"}],
    )  # fmt: skip
    parts = load(path, "bits_per_byte", bench.tokenizer)
    theirs = by_document(bench.theirs(path))
    convert = {"bits_per_byte": lambda pair: -pair[0] / pair[1] / math.log(2)}
    check_parts(parts, theirs, convert, bench.measure)


def _contexts(part: Any, tokenizer: Any) -> str:
    passages = [passage for example in part.examples for passage in example.passages]
    return "\n".join(tokenizer.decode(passage.context) for passage in passages)


def test_worked_examples_of_the_search_are_search_examples(
    write_task: Any, questions: Any, bench: Bench
) -> None:
    short = [one for one in questions(80, 1) if len(one["query"]) < 60]
    data = {"train": short[:20], "test": short[20:]}
    path = write_task("quiz", data, test_split="test", training_split="train", num_fewshot=2)

    parts = load(path, "acc", bench.tokenizer, split="train", test_split="test")
    queries = [short[index]["query"].strip() for _, index in parts.selection.origins]
    for part in (parts.search, parts.selection):
        text = _contexts(part, bench.tokenizer)
        asked = part is parts.selection  # each question stands in its own contexts
        counts = [text.count(query) for query in queries]
        own = [len(short[index]["choices"]) for _, index in parts.selection.origins]
        assert counts == (own if asked else [0] * len(queries))
    # those of test examples are lm-eval's own draws
    assert any(query in _contexts(parts.test, bench.tokenizer) for query in queries)


def test_worked_examples_are_not_the_test_examples_of_another_task(
    write_task: Any, questions: Any, tiny_tokenizer: Any
) -> None:
    data = {"train": questions(20, 1), "test": questions(12, 51)}
    keys = {"validation_split": "train", "test_split": "test"}
    searched = write_task("quiz", data, **keys, fewshot_split="test", num_fewshot=2)
    tested = str(write_task("exam", {"test": data["test"][:9]}))
    parts = load(searched, "acc", tiny_tokenizer, split="train", test_task=tested)
    text = _contexts(parts.search, tiny_tokenizer)
    assert not any(one["query"].strip() in text for one in data["test"][:9])
    # nor examples of another split that read the same
    data["copy"] = data["train"]
    searched = write_task("twice", data, **keys, fewshot_split="copy", num_fewshot=2)
    parts = load(searched, "acc", tiny_tokenizer, split="train")
    for part, own in ((parts.search, 0), (parts.selection, 1)):  # its own question alone
        text = _contexts(part, tiny_tokenizer)
        for _, index in parts.selection.origins:
            one = data["train"][index]
            assert text.count(one["query"].strip()) <= own * len(one["choices"])
    searched = write_task("quiz", data, **keys, fewshot_split="test", num_fewshot=2)
    tested = str(write_task("exam", {"test": data["test"][:11]}))
    with pytest.raises(TaskError, match=r"of which 1 examples are kept neither .* 2 are needed"):
        load(searched, "acc", tiny_tokenizer, split="train", test_task=tested)
