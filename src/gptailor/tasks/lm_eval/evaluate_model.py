"""Score a finished model by lm-eval, on the test splits of loaded tasks."""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptailor.core.trial import Measurement, Scores
from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.building import FEWSHOT_SEED
from gptailor.tasks.lm_eval.chat import chat_of
from gptailor.tasks.lm_eval.open_task import as_lm_eval_runs, open_task, open_test_task
from gptailor.tasks.splits import TaskSplits
from gptailor.tasks.task import Outcome, plain_numbers

__all__ = ["evaluate_model"]


def evaluate_model(
    model: Any,
    tasks: Mapping[str, TaskSplits],
    *,
    tokenizer: Any = None,
    max_length: int | None = None,
    dtype: str = "auto",
    batch_size: int = 8,
) -> Scores:
    """Score a finished model on the test splits, through lm-eval from end to end.

    lm-eval's own model class, requests, batches and metrics are used; other metrics
    (`gold_bits_per_byte`, `choice_logprob`, plug-ins) are computed from the log-likelihoods that
    it returns; where text is written, there are none. The global random states are left as they
    were found.

    Args:
        model: A folder or hub id, or a live Hugging Face model.
        tasks: As `load_tasks` returned them.
        tokenizer: Needed beside a live model; the folder's own where None.
        max_length: Tokens fed at once; the model's own limit where None.
        dtype: Of a model that is loaded: ``auto``, ``float32``, ``bfloat16``, ...
        batch_size: Sequences in one forward.
    """
    import torch

    with torch.random.fork_rng(), as_lm_eval_runs():
        backend = _backend(model, tokenizer, dtype, max_length=max_length, batch_size=batch_size)
        return Scores({name: _evaluate(backend, splits) for name, splits in tasks.items()})


def _backend(model: Any, tokenizer: Any, dtype: str, **options: Any) -> Any:
    import torch
    from lm_eval.models.huggingface import HFLM

    # lm-eval's own default is cuda
    options["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if tokenizer is not None:
        options["tokenizer"] = copy.deepcopy(tokenizer)  # lm-eval may add a pad token
    if not isinstance(model, str | Path):
        return HFLM(pretrained=model, **options)
    try:
        return HFLM(pretrained=str(model), dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise TaskError(f"{model}: lm-eval can't load it: {str(error).splitlines()[0]}") from None


def _evaluate(backend: Any, splits: TaskSplits) -> dict[str, Measurement]:
    from lm_eval.evaluator import evaluate

    opened = open_test_task(splits.spec) or open_task(splits.spec)
    subtasks = {name: opened.subtasks[name] for name in splits.test_docs}
    for task in subtasks.values():
        task.set_fewshot_seed(FEWSHOT_SEED)
    tokenizer = backend.tokenizer
    chat, templates = chat_of(splits.spec, tokenizer), tokenizer.chat_template
    if chat.template is not None:
        tokenizer.chat_template = chat.template
    try:
        results = evaluate(
            lm=backend,
            task_dict={"tasks": subtasks, "groups": {}, "group_map": {}},
            samples={name: list(indices) for name, indices in splits.test_docs.items()},
            bootstrap_iters=0,
            log_samples=True,
            apply_chat_template=chat.template is not None,
            system_instruction=chat.system_instruction,
            fewshot_as_multiturn=chat.multiturn,
        )
    finally:
        tokenizer.chat_template = templates
    samples: dict[tuple[str, int], list[Mapping[str, Any]]] = {}  # one a filter of written text
    for name, logged in results["samples"].items():
        for sample in logged:
            samples.setdefault((name, int(sample["doc_id"])), []).append(sample)
    test = splits.test
    numbers = []
    for example, origin in enumerate(test.origins):
        if test.examples[example].prompt is not None:
            numbers.append(_of_text(samples[origin]))
            continue
        first = samples[origin][0]
        theirs = plain_numbers({m: first.get(m) for m in ("acc", "acc_norm")})
        numbers.append(test.score(example, _outcomes(first)) | theirs)
    n = test.n_examples
    return {
        metric: Measurement(metric, tuple(one[metric] for one in numbers), test.weights(metric, n))
        for metric in test.metrics
        if all(metric in one for one in numbers)  # no divergence, no bits where text is written
    }


def _of_text(samples: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The metrics that lm-eval logged for one written text, by the names of `GeneratedExample`."""
    numbers: dict[str, float] = {}
    for sample in samples:
        found = plain_numbers({metric: sample[metric] for metric in sample["metrics"]})
        numbers |= {f"{metric},{sample['filter']}": number for metric, number in found.items()}
        numbers |= found if len(samples) == 1 else {}
    return numbers


def _outcomes(sample: Mapping[str, Any]) -> list[Outcome]:
    """What lm-eval logged for one example; it logs no `greedy` for a whole text."""
    return [
        Outcome(float(one[0]), bool(one[1]))
        if isinstance(one, tuple | list)
        else Outcome(float(one), greedy=False)
        for one in sample["filtered_resps"]
    ]
