"""Tasks that generate: our scores are lm-eval's own, to the example and the filter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from gptailor.core.metrics import METRICS
from gptailor.core.specs import TaskSpec
from gptailor.errors import ConfigError, TaskError
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.splits import TaskSplits
from gptailor.tasks.task import Outcome

KEYS = {
    "output_type": "generate_until",
    "doc_to_text": "{{query}}",
    "doc_to_choice": None,
    "doc_to_target": "{{choices[0]}}",
    "generation_kwargs": {"until": [" is", "東京"], "max_gen_toks": 9},
    "metric_list": [{"metric": "exact_match", "ignore_case": True}],
}
FILTERS = [
    {"name": "word", "filter": [{"function": "regex", "regex_pattern": r"(\w+)"}, "take_first"]},
    {"name": "whole", "filter": ["remove_whitespace", "take_first"]},
]
for _one in FILTERS:
    _one["filter"] = [s if isinstance(s, dict) else {"function": s} for s in _one["filter"]]
SHARES = (0.5, 0.2, 0.3)


def load(path: Path, metric: str, tokenizer: Any, max_length: int = 64) -> TaskSplits:
    asked = [TaskSpec(name=str(path), metric=metric)]
    (parts,) = load_tasks(asked, tokenizer, max_length=max_length, seed=3, shares=SHARES).values()
    return parts


def written(model: Any, tokenizer: Any, prompt: Any) -> str:
    """The slow truth: one prompt, all its tokens, nothing that stops at a text."""
    tokens = torch.tensor([prompt.tokens])
    with torch.inference_mode():
        out = model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=prompt.max_new_tokens,
            pad_token_id=0,
        )
    return str(tokenizer.decode(out[0, tokens.shape[1] :], skip_special_tokens=True))


def test_scores_are_lm_evals_by_example_and_filter(
    write_task: Any, questions: Any, tiny_model: Any, tiny_tokenizer: Any, judge: Any
) -> None:
    model, rows = tiny_model("llama"), questions(24)
    path = write_task("quiz", {"test": rows}, **KEYS, filter_list=FILTERS)
    parts = load(path, "exact_match,word", tiny_tokenizer)
    texts = [
        written(model, tiny_tokenizer, part.examples[example].prompt)
        for part in (parts.search, parts.selection, parts.test)
        for example in range(part.n_examples)
    ]
    # half of the gold answers are what the model writes, the others are not
    origins = [index for part in parts.by_name.values() for _, index in part.origins]
    for index, text in list(zip(origins, texts, strict=True))[::2]:
        said = text.split(" is")[0].split("東京")[0].strip()
        rows[index]["choices"][0] = said.upper() or "nothing"
    lines = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (path.parent / "quiz.test.jsonl").write_text(lines + "\n", encoding="utf-8")
    parts = load(path, "exact_match,word", tiny_tokenizer)
    theirs = {
        (one["doc_id"], one["filter"]): one["exact_match"]
        for one in judge(model, tiny_tokenizer, path)["samples"]["quiz"]
    }
    found: list[float] = []
    for part in parts.by_name.values():
        assert part.metrics == ("exact_match,word", "exact_match,whole", "gold_bits_per_byte")
        for example, (_, index) in enumerate(part.origins):
            text = written(model, tiny_tokenizer, part.examples[example].prompt)
            numbers = part.measure(
                example, [[Outcome(-1.0, False)], [Outcome(0.0, True, text=text)]]
            )
            for name in ("word", "whole"):
                assert numbers[f"exact_match,{name}"] == theirs[index, name]
                found.append(numbers[f"exact_match,{name}"])
    assert 0 < sum(found) < len(found)
    scores = evaluate_model(model, {"quiz": parts}, tokenizer=tiny_tokenizer, max_length=64)
    measured = scores.tasks["quiz"]
    assert set(measured) == {"exact_match,word", "exact_match,whole"}
    for metric, numbers in measured.items():
        name = metric.partition(",")[2]
        assert numbers.values == tuple(theirs[i, name] for _, i in parts.test.origins)


def test_one_filter_needs_no_name_and_may_be_named(
    write_task: Any, questions: Any, tiny_tokenizer: Any
) -> None:
    path = write_task("quiz", {"test": questions(10)}, **KEYS)
    for metric in ("exact_match", "exact_match,none"):
        parts = load(path, metric, tiny_tokenizer)
        assert parts.search.metrics == (metric, "gold_bits_per_byte")
        assert parts.search.proxy(metric) == "gold_bits_per_byte"
    prompt = parts.search.examples[0].prompt
    assert prompt is not None
    assert prompt.until == (" is", "東京", tiny_tokenizer.eos_token)
    assert max(len(one.prompt.tokens) for one in parts.search.examples) <= 64 - 9


def test_a_metric_without_its_filter_or_with_an_unknown_one_is_refused(
    write_task: Any, questions: Any, tiny_tokenizer: Any
) -> None:
    path = write_task("quiz", {"test": questions(10)}, **KEYS, filter_list=FILTERS)
    for metric in ("exact_match", "exact_match,wrod", "acc"):
        with pytest.raises(TaskError, match=rf"measured by '{metric}'; .*exact_match,word, exact"):
            load(path, metric, tiny_tokenizer)
    told = "does not look at the text; use one of exact_match,word, exact_match,whole, or write"
    with pytest.raises(TaskError, match=told):
        load(path, "gold_bits_per_byte", tiny_tokenizer)
    with pytest.raises(ConfigError, match="unknown metric 'perplexity,word'"):
        METRICS.load("perplexity,word")


def test_a_gold_answer_that_is_no_text_leaves_the_metric_to_rank(
    write_task: Any, questions: Any, tiny_tokenizer: Any
) -> None:
    path = write_task("quiz", {"test": questions(10)}, **{**KEYS, "doc_to_target": 0})
    search = load(path, "exact_match", tiny_tokenizer).search
    assert search.metrics == ("exact_match",)
    assert search.proxy("exact_match") == "exact_match"
    assert search.passages(0) == ()


def test_another_gold_answer_is_another_digest(
    write_task: Any, questions: Any, tiny_tokenizer: Any
) -> None:
    rows = questions(10)
    several = {**KEYS, "doc_to_target": "{{choices}}"}
    before = load(write_task("quiz", {"test": rows}, **several), "exact_match", tiny_tokenizer)
    for row in rows:
        row["choices"][1] += " more"
    after = load(write_task("quiz", {"test": rows}, **several), "exact_match", tiny_tokenizer)
    assert before.search.passages(0) == after.search.passages(0)
    assert before.search.digest != after.search.digest
