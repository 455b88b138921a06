"""Task files on the spot, lm-eval as the judge, and a slow obvious way to ask a model."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gptailor.tasks.lm_eval.open_task import as_lm_eval_runs
from gptailor.tasks.task import Outcome, Passage

SHARES = (0.5, 0.2, 0.3)
WORDS = (
    *("gold", "iron", "Paris", "Rome", "três", "ünïcode", "東京", "naïve", "🙂", "five", "minus"),
    *("return", "print", "capital", "symbol", "make", "three", "add", "has", "the", "of", "is"),
    *("and", "four", "seven"),
)


def _sentence(seed: int, n: int) -> str:
    return " ".join(
        WORDS[(seed * 7 + 3 * place + place * place) % len(WORDS)] for place in range(n)
    )


def _question(seed: int) -> dict[str, Any]:
    n = 2 + seed % 4
    length = 60 if seed % 5 == 0 else 4 + seed % 6  # every fifth context must be cut
    choices = [_sentence(seed + 11 * place, 1 + (seed + place) % 4) for place in range(n)]
    choices = [f"{choice}{place}" for place, choice in enumerate(choices)]  # all unlike
    ending = "  " if seed % 3 == 0 else ""  # spaces that move to the continuation
    return {
        "query": f"{_sentence(seed, length)} {seed}:{ending}",
        "choices": choices,
        "gold": seed % n,
    }


CHOICE = {
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "doc_to_text": "{{query}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
}


@pytest.fixture
def questions() -> Callable[..., list[dict[str, Any]]]:
    """Factory: ``questions(n, start=0)``: 2 to 5 choices, long, unicode, trailing spaces."""
    return lambda n, start=0: [_question(seed) for seed in range(start, start + n)]


@pytest.fixture
def texts() -> Callable[[int], list[dict[str, Any]]]:
    """Factory: texts from one word to several windows of 64 tokens."""
    return lambda n: [{"text": _sentence(seed, 1 + 5 * seed), "id": seed} for seed in range(n)]


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    """Factory: ``write_task(name, {split: rows}, **keys)``; the folder has a space."""
    folder = tmp_path / "my tasks"

    def write(name: str, data: Mapping[str, Sequence[Any]], **keys: Any) -> Path:
        folder.mkdir(exist_ok=True)
        files = {}
        for split, rows in data.items():
            files[split] = f"{name}.{split}.jsonl"
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (folder / files[split]).write_text("\n".join(lines) + "\n", encoding="utf-8")
        config = {"task": name, **CHOICE, "dataset_kwargs": {"data_files": files}, **keys}
        if not {"test_split", "validation_split", "training_split"} & set(keys):
            config["test_split"] = next(iter(data))
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in config.items() if v is not None}))
        return path

    return write


@pytest.fixture
def write_group(tmp_path: Path) -> Callable[..., Path]:
    """Factory: ``write_group(name, members, **keys)``."""

    def write(name: str, members: Sequence[Any], **keys: Any) -> Path:
        path = tmp_path / "my tasks" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump({"group": name, "task": list(members), **keys}))
        return path

    return write


@pytest.fixture
def slow_outcome() -> Callable[..., Outcome]:
    """One forward for one continuation, nothing shared, nothing batched."""

    def ask(model: Any, context: Sequence[int], continuation: Sequence[int]) -> Outcome:
        tokens = torch.tensor([[*context, *continuation]])
        with torch.inference_mode():
            logprobs = model(tokens[:, :-1]).logits[0].float().log_softmax(-1)
        logprobs = logprobs[len(context) - 1 :]
        target = torch.tensor(continuation)
        total = logprobs.gather(1, target[:, None]).sum()
        greedy = bool((logprobs.argmax(-1) == target).all())
        return Outcome(float(total), greedy, len(continuation))

    return ask


@pytest.fixture
def slow_measure(slow_outcome: Callable[..., Outcome]) -> Callable[..., dict[str, float]]:
    """Ask a model about one example of a task."""

    def one(model: Any, passage: Passage) -> list[Outcome]:
        return [slow_outcome(model, passage.context, c) for c in passage.continuations]

    return lambda model, task, example: task.measure(
        example, [one(model, passage) for passage in task.passages(example)]
    )


@pytest.fixture
def judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """lm-eval's own `simple_evaluate` on the YAML files of a folder, with its own JSON reader."""
    import datasets
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # seconds of asking git and pip what is installed, which no score depends on
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)
    monkeypatch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)

    def run(model: Any, tokenizer: Any, path: Path, **options: Any) -> dict[str, Any]:
        monkeypatch.chdir(path.parent)  # where lm-eval looks for relative data files
        with as_lm_eval_runs():
            backend = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, max_length=64)
            return simple_evaluate(
                model=backend,
                tasks=[path.stem],
                task_manager=TaskManager(include_path=str(path.parent), include_defaults=False),
                bootstrap_iters=0,
                **options,
            )

    return run


@pytest.fixture
def bos_tokenizer(tiny_tokenizer: Any) -> Any:
    """The tiny tokenizer, putting its beginning-of-sequence token before every text."""
    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny_tokenizer)
    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    assert tokenizer.encode("a")[0] == tokenizer.bos_token_id
    return tokenizer
