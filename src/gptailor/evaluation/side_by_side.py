"""Evaluate base, variants and result side by side with lm-eval, on the test split.

Every model is a stock Hugging Face model run by lm-eval's own backend, without the engine.
"""

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from gptailor.core.statistics import N_RESAMPLES, RESULT
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.errors import ExportError
from gptailor.family import Family
from gptailor.family.empty_model import auto_class, model_around
from gptailor.family.library_calls import quiet
from gptailor.family.multimodal import language_model
from gptailor.record.evaluation_file import EvaluatedModel, EvaluationFile
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model
from gptailor.tasks.splits import TaskSplits

__all__ = ["evaluate_side_by_side", "expected_work", "open_finished", "save_evaluation"]


def evaluate_side_by_side(
    family: Family,
    tasks: Mapping[str, TaskSplits],
    model: Path,
    *,
    max_length: int,
    batch_size: int = 16,
    on_model: Callable[[str], None] = lambda _: None,
) -> list[EvaluatedModel]:
    """Score every member and the finished `model`, an exported folder, on the test splits.

    `max_length` is tokens fed at once, `batch_size` sequences in one forward; `on_model` is called
    with the name of each model before it is scored.
    """
    finished, tokenizer = open_finished(family, model)
    evaluated = []
    for name in (*family.members, RESULT):
        on_model(name)
        live, path, tensors = finished, str(model), [*finished.parameters()]
        if name != RESULT:
            path, tensors = family.paths[name], [*family.states[name].values()]
            live = model_around(family.config, family.states[name], family.dtype)
            if family.generation_config is not None:  # as the finished model has it
                live.generation_config = family.generation_config
        try:
            scores = evaluate_model(
                live,
                tasks,
                tokenizer=tokenizer if name == RESULT else family.tokenizer,
                max_length=max_length,
                batch_size=batch_size,
            )
        except OverflowError:  # in lm-eval's own sums, which are not used here
            raise ExportError(
                f"{path}: has a perplexity that is too large for a number; take the perplexities "
                "off the task's metric_list, or evaluate another task"
            ) from None
        for task, metrics in scores.tasks.items():
            for metric, measured in metrics.items():
                if not np.isfinite(measured.values).all():
                    raise ExportError(f"{path}: task {task!r} gives a {metric} that is not finite")
        size = sum(tensor.numel() for tensor in tensors)
        evaluated.append(EvaluatedModel(name=name, path=path, parameters=size, scores=scores))
    return evaluated


def expected_work(
    family: Family, tasks: Mapping[str, TaskSplits], *, max_length: int, batch_size: int
) -> tuple[int, float]:
    """Layer-tokens of a whole member on the test splits, and seconds, from timing one batch.

    Counted are lm-eval's requests, of which those that differ in the last token are one; what is
    written after a prompt is not.
    """
    passages = (p for s in tasks.values() for e in s.test.examples for p in e.passages)
    requests = ((p.context, end) for p in passages for end in {c[:-1] for c in p.continuations})
    lengths = [min(len(context) + len(end), max_length) for context, end in requests]
    if not lengths:
        return 0, 0.0
    n_tokens, longest = sum(lengths), max(1, sum(lengths) // len(lengths))
    device = "cuda" if torch.cuda.is_available() else "cpu"  # lm-eval's choice
    model = model_around(family.config, family.states[BASE], family.dtype).to(device)
    batch = torch.zeros(min(batch_size, len(lengths)), longest, dtype=torch.long, device=device)
    for _ in range(2):  # the first warms up
        started = time.perf_counter()
        with torch.no_grad():
            model(batch).logits.float().log_softmax(-1)[-1, -1, -1].item()  # waits for a GPU
    seconds = (time.perf_counter() - started) * n_tokens / batch.numel()
    return n_tokens * family.n_layers, seconds


def save_evaluation(
    folder: Path,
    models: Sequence[EvaluatedModel],
    tailoring: Tailoring,
    *,
    chances: Mapping[str, tuple[float, ...]],
) -> None:
    """Write ``evaluation.json`` beside a run's record, for the report of this tailoring only."""
    libraries = ("gptailor", "torch", "transformers", "lm-eval")
    EvaluationFile(
        tailoring=tailoring.digest,
        backend="lm-eval hf",
        n_resamples=N_RESAMPLES,
        versions={name: importlib.metadata.version(name) for name in libraries},
        models=tuple(models),
        chances=dict(chances),
    ).save(folder)


def open_finished(family: Family, folder: Path) -> tuple[Any, Any]:
    """Load a finished model and its tokenizer with stock transformers, and check both."""
    again = "export it again"
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    reader, wrapper = AutoModelForCausalLM, family.multimodal_wrapper
    try:
        with quiet():
            if wrapper is not None:
                reader = auto_class(wrapper.config)
            whole, info = reader.from_pretrained(
                str(folder),
                dtype=family.dtype,
                output_loading_info=True,
                use_safetensors=True,
                **local,
            )
            tokenizer = AutoTokenizer.from_pretrained(str(folder), **local)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        first_line, *_ = str(error).splitlines() or [type(error).__name__]
        raise ExportError(f"{folder}: can't be loaded: {first_line}; {again}") from None
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[what]:
            names = ", ".join(sorted(str(name) for name in info[what])[:3])
            noun = what.replace("_keys", " tensors")
            raise ExportError(f"{folder}: has {len(info[what])} {noun} ({names}); {again}")
    model = language_model(whole)
    if model.config.model_type != family.config.model_type:
        raise ExportError(
            f"{folder}: is a {model.config.model_type} model, and the family is "
            f"{family.config.model_type}; name a folder exported from this family"
        )
    return model.eval(), tokenizer
