"""Prompts through chat templates: lm-eval's own rendering and token ids are the oracle."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptailor.core.specs import ChatSpec, TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model
from gptailor.tasks.lm_eval.load_tasks import load_tasks
from gptailor.tasks.lm_eval.open_task import as_lm_eval_runs, open_task

SHARES = (0.5, 0.2, 0.3)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for one in messages %}<s>{{ one['role'] }}> {{ one['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<s>model>\n{% endif %}"
)
KINDS: dict[str, dict[str, Any]] = {
    "choices": {},
    "prefixed": {"gen_prefix": "Answer:", "description": "Be brief. "},
    "contexts": {"doc_to_text": "{{gold}}", "doc_to_choice": "{{choices}}", "doc_to_target": "so"},
    "text": {"output_type": "loglikelihood", "doc_to_choice": None, "doc_to_target": " {{query}}"},
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_choice": None,
        "doc_to_text": "",
        "doc_to_target": "{{query}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
}


@pytest.fixture
def tokenizers(tiny_tokenizer: Any) -> dict[str, Any]:
    """By the templates they have: one, two by name, none."""
    made = {name: copy.deepcopy(tiny_tokenizer) for name in ("one", "named", "none")}
    made["named"].chat_template = {"default": tiny_tokenizer.chat_template, "plain": NO_SYSTEM}
    made["none"].chat_template = None
    return made


@pytest.fixture
def load(tokenizers: Any) -> Callable[..., Any]:
    def run(path: Path, tokenizer: str = "one", **keys: Any) -> Any:
        metric = "acc" if "rolling" not in path.name else "bits_per_byte"
        spec = TaskSpec(name=str(path), metric=metric, split="test", **keys)
        (splits,) = load_tasks(
            [spec], tokenizers[tokenizer], max_length=400, seed=0, shares=SHARES
        ).values()
        return splits

    return run


@pytest.fixture(scope="session")
def lm_eval_model(tiny_model: Any, tiny_tokenizer: Any) -> Any:
    from lm_eval.models.huggingface import HFLM

    with as_lm_eval_runs():
        return HFLM(pretrained=tiny_model("llama"), tokenizer=copy.deepcopy(tiny_tokenizer))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tokenizer", "asked"),
    [
        ("one", {"chat_template": True}),
        ("one", {"chat_template": True, "fewshot_as_multiturn": False}),
        ("one", {"chat_template": True, "system_instruction": "You are short."}),
        ("named", {"chat_template": True, "num_fewshot": 0}),
        ("named", {"chat_template": "plain", "system_instruction": "You are short."}),
        ("none", {"system_instruction": "You are short."}),
        ("one", {"chat_template": False}),
    ],
    ids=str,
)
def test_tokens_are_those_of_lm_eval(  # noqa: PLR0917  # fixtures
    kind: str,
    tokenizer: str,
    asked: dict[str, Any],
    load: Any,
    write_task: Any,
    questions: Any,
    tokenizers: Any,
    lm_eval_model: Any,
) -> None:
    rows = [one for one in questions(40) if len(one["query"]) < 60]
    path = write_task(
        f"quiz_{kind}", {"test": rows[:9], "train": rows[9:18]},
        test_split="test", training_split="train", **KINDS[kind],
    )  # fmt: skip
    keys = {"num_fewshot": 2, **asked}
    splits = load(path, tokenizer, **keys)

    lm, templates = lm_eval_model, tokenizers[tokenizer].chat_template
    lm.tokenizer.chat_template = templates
    wanted = asked.get("chat_template") or False
    if wanted:
        lm.tokenizer.chat_template = lm.chat_template(wanted)
    multiturn = asked.get("fewshot_as_multiturn", bool(wanted))
    with as_lm_eval_runs():
        (task,) = open_task(splits.spec).subtasks.values()
    for part in splits.by_name.values():
        numbers = sorted(index for _, index in part.origins)
        with as_lm_eval_runs():
            task.set_fewshot_seed(1234)
            task.build_all_requests(
                samples=numbers,
                system_instruction=asked.get("system_instruction"),
                apply_chat_template=bool(wanted),
                fewshot_as_multiturn=multiturn,
                chat_template=lm.apply_chat_template if wanted else None,
            )
        theirs: dict[int, list[Any]] = {}
        for one in sorted(task.instances, key=lambda one: (one.doc_id, one.idx)):
            pair = ([0], lm.tok_encode(one.args[0]))
            if kind != "rolling":
                pair = lm._encode_pair(*one.args)
            theirs.setdefault(numbers[one.doc_id], []).append(pair)
        for example, (_, index) in zip(part.examples, part.origins, strict=True):
            ours = [(list(p.context), list(c)) for p in example.passages for c in p.continuations]
            assert sorted(ours) == sorted(map(tuple, theirs[index]))


def test_a_beginning_is_never_doubled(load: Any, write_task: Any, questions: Any) -> None:
    splits = load(write_task("quiz", {"test": questions(9)}), chat_template=True)
    for example in splits.search.examples:
        for passage in example.passages:
            assert passage.context[0] == 0 != passage.context[1]


def test_what_the_tokenizer_lacks_is_said(load: Any, write_task: Any, questions: Any) -> None:
    path = write_task("quiz", {"test": questions(9)})
    for tokenizer, keys, said in (
        ("none", {"chat_template": True}, "the tokenizer has no chat template"),
        (
            "named",
            {"chat_template": "rag"},
            "there is no 'rag' .*; name one of default, plain",
        ),
        ("one", {"fewshot_as_multiturn": True}, "turns need a chat template"),
    ):
        with pytest.raises(TaskError, match=said):
            load(path, tokenizer, **keys)
    assert "it is used" in load(path, chat_template="rag").notes[0]
    deaf = load(path, "named", chat_template="plain", system_instruction="Be short.")
    assert "takes no system message" in deaf.notes[0]


def test_a_task_goes_before_the_default_of_all_tasks() -> None:
    task = TaskSpec(name="t", metric="acc", chat_template=False)
    chat = ChatSpec(chat_template=True, system_instruction="Be short.")
    assert task.with_defaults(chat).chat_template is False
    assert task.with_defaults(chat).system_instruction == "Be short."
    assert TaskSpec(name="t", metric="acc").with_defaults(chat).chat_template is True


def test_lm_eval_evaluates_through_the_same_template(
    load: Any, write_task: Any, questions: Any, tokenizers: Any, slow_measure: Any, tiny_model: Any
) -> None:
    rows = [one for one in questions(30) if len(one["query"]) < 60][:12]
    path, model = write_task("quiz", {"test": rows}), tiny_model("llama")
    keys = {"chat_template": "plain", "system_instruction": "Be short."}
    tasks = {"a": load(path, "named", **keys), "b": load(path, "named", chat_template=True)}
    found = evaluate_model(model, tasks, tokenizer=tokenizers["named"], max_length=400)
    for name, splits in tasks.items():
        ours = [slow_measure(model, splits.test, n) for n in range(splits.test.n_examples)]
        theirs = found.tasks[name]["gold_bits_per_byte"].values
        np.testing.assert_allclose(theirs, [one["gold_bits_per_byte"] for one in ours], atol=2e-4)
    assert json.dumps(found.tasks["a"]["gold_bits_per_byte"].values) != json.dumps(
        found.tasks["b"]["gold_bits_per_byte"].values
    )
