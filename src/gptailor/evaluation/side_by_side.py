"""Base, variants and result side by side, through lm-eval, on examples that the search never saw.

Every model is a stock Hugging Face model run by lm-eval's own backend: nothing of the engine that
searched takes part. Knows the record's format of an evaluation; knows nothing of searching.
"""

import importlib.metadata
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from gptailor.core.objective import Goal
from gptailor.core.statistics import average_retention, bootstrap_interval, retention_interval
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Scores
from gptailor.errors import ExportError
from gptailor.family import Family
from gptailor.family.empty_model import auto_class, model_around
from gptailor.family.multimodal import language_model
from gptailor.family.quiet import quiet
from gptailor.files.atomic import write_atomically
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model
from gptailor.tasks.splits import TaskSplits

__all__ = [
    "EVALUATION",
    "Evaluated",
    "evaluate_side_by_side",
    "open_finished",
    "save_evaluation",
    "table",
]

EVALUATION = "evaluation.json"
RESULT = "result"
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One model's scores on the test split.

    Args:
        name: ``base``, a variant's name, or ``result``.
        path: Where it came from.
        parameters: How many it has.
        scores: Example by example.
    """

    name: str
    path: str
    parameters: int
    scores: Scores


def evaluate_side_by_side(
    family: Family,
    tasks: Mapping[str, TaskSplits],
    model: Path,
    *,
    max_length: int,
    batch_size: int = 16,
    on_model: Callable[[str], None] = lambda _: None,
) -> list[Evaluated]:
    """Score every member and the finished model.

    Args:
        family: The members.
        tasks: Their test splits are used.
        model: The exported folder.
        max_length: Tokens fed at once.
        batch_size: Sequences in one forward.
        on_model: Told the name of each model before it is scored.

    Raises:
        UserError: The model can't be loaded, or a task can't be run.
    """
    told = []
    finished, tokenizer = open_finished(family, model)
    for name in (*family.members, RESULT):
        on_model(name)
        if name == RESULT:
            live: Any = finished
            path, parameters = str(model), sum(t.numel() for t in finished.parameters())
        else:
            live = model_around(family.config, family.states[name], family.dtype)
            path, parameters = (
                family.paths[name],
                sum(t.numel() for t in family.states[name].values()),
            )
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
        _refuse_non_finite(path, scores)
        told.append(Evaluated(name, path, parameters, scores))
    return told


def save_evaluation(folder: Path, models: Sequence[Evaluated], tailoring: Tailoring) -> Path:
    """Write ``evaluation.json`` beside a run's record; the report picks it up.

    Args:
        folder: The run's.
        models: What was scored.
        tailoring: That of the result, so that nobody takes it for another's.
    """
    libraries = ("gptailor", "torch", "transformers", "lm-eval")
    plain = {
        "format": "gptailor-evaluation/1",
        "split": "test",
        "tailoring": tailoring.digest,
        "backend": "lm-eval hf",
        "n_resamples": _RESAMPLES,
        "versions": {name: importlib.metadata.version(name) for name in libraries},
        "models": [
            {
                "name": model.name,
                "path": model.path,
                "parameters": model.parameters,
                "scores": model.scores.to_plain(),
            }
            for model in models
        ],
    }
    path = folder / EVALUATION
    write_atomically(path, json.dumps(plain, allow_nan=False))
    return path


def table(models: Sequence[Evaluated], goals: Sequence[Goal]) -> list[dict[str, Any]]:
    """One row a task and model, and one a model for the mean retention over the tasks.

    Returns:
        Rows with model, task, metric, n_examples, value, interval, retention and its interval
        (shares of the base's score, paired bootstrap, 95 %); task None is the mean, and a number
        that is None is too large, or can't be told.
    """
    base = next(model for model in models if model.name == BASE)
    rows = []
    for model in models:
        pairs = []
        for goal in goals:
            if goal.metric not in model.scores.tasks[goal.task]:
                continue  # lm-eval can't tell a divergence
            ours = model.scores.tasks[goal.task][goal.metric]
            theirs = base.scores.tasks[goal.task][goal.metric]
            pairs.append((ours, theirs))
            own = bootstrap_interval(ours, n_resamples=_RESAMPLES)
            kept = retention_interval(ours, theirs, n_resamples=_RESAMPLES)
            rows.append(
                {
                    "model": model.name,
                    "task": goal.task,
                    "metric": goal.metric,
                    "n_examples": len(ours.values),
                    "value": _finite(ours.value)[0],
                    "interval": _finite(own.low, own.high),
                    "retention": None if kept is None else _finite(kept.value)[0],
                    "retention_interval": None if kept is None else _finite(kept.low, kept.high),
                }
            )
        mean = average_retention(pairs, n_resamples=_RESAMPLES) if pairs else None
        if mean is None or not math.isfinite(mean.value):
            continue  # the base scored 0 somewhere, or nothing could be told
        rows.append(
            {
                "model": model.name,
                "task": None,
                "retention": mean.value,
                "retention_interval": _finite(mean.low, mean.high),
                "parameters": model.parameters,
            }
        )
    return rows


def _finite(*ends: float) -> list[float | None]:
    """Numbers, or ends of an interval: without a limit it is None, as JSON has no infinity."""
    return [end if math.isfinite(end) else None for end in ends]


def open_finished(family: Family, folder: Path) -> tuple[Any, Any]:
    """Load a finished model and its tokenizer with stock transformers, and trust nothing.

    Raises:
        ExportError: Something of it is missing, broken, left over, or of another architecture.
    """
    again = "export it again"
    try:
        with quiet():
            reader = AutoModelForCausalLM
            if family.multimodal_wrapper is not None:
                reader = auto_class(family.multimodal_wrapper.config)
            whole, info = reader.from_pretrained(
                str(folder),
                dtype=family.dtype,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        told = str(error).splitlines() or [type(error).__name__]
        raise ExportError(f"{folder}: can't be loaded: {told[0]}; {again}") from None
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


def _refuse_non_finite(path: str, scores: Scores) -> None:
    for task, metrics in scores.tasks.items():
        for metric, measured in metrics.items():
            if not all(math.isfinite(value) for value in measured.values):
                raise ExportError(f"{path}: task {task!r} gives a {metric} that is not finite")
