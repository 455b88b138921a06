"""Load tasks through lm-eval: divide their examples into splits and tokenise every request once.

Requests are built by lm-eval's own task objects and tokenised as its Hugging Face backend does it,
so a model's scores here are lm-eval's own, example by example. lm-eval is imported inside
functions: it is slow, and most of the program does without it.
"""

from collections.abc import Sequence
from typing import Any

from gptailor.core.metrics import METRICS
from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.lm_eval import local_files
from gptailor.tasks.lm_eval.loaded_task import (
    LoadedTask,
    all_documents,
    build_task,
    by_subtask,
    refuse_leak,
)
from gptailor.tasks.lm_eval.open_task import open_task, open_test_task
from gptailor.tasks.lm_eval.runtime import as_lm_eval_runs
from gptailor.tasks.splits import TaskSplits, divide, limited

__all__ = ["load_tasks"]


def load_tasks(
    specs: Sequence[TaskSpec],
    tokenizer: Any,
    *,
    max_length: int,
    seed: int,
    shares: tuple[float, float, float],
    n_tokens: int | None = None,
) -> dict[str, TaskSplits]:
    """Load tasks, divide their examples into splits, and tokenise every request once.

    Args:
        specs: What the user asks for.
        tokenizer: The base's Hugging Face tokenizer.
        max_length: Tokens that a model is fed at once; longer contexts lose their beginning.
        seed: Decides the splits and the order within them.
        shares: Of the search, selection and test split; where the test examples come from another
            data split or task, the first two divide the one searched.
        n_tokens: Rows of the model's embedding; every token must have one. None: not checked.

    Returns:
        One entry a spec, in order, by the task's own name.

    Raises:
        TaskError: With the problems of all tasks, a sentence each.
        ConfigError: A metric is unknown here: a worker has not the plug-in.
    """
    encoder = Encoder.of(tokenizer, max_length, n_tokens)
    loaded: dict[str, TaskSplits] = {}
    problems: list[str] = []
    for spec in specs:
        METRICS.load(spec.metric)  # a spec that was sent to a worker has not been validated there
        try:
            with as_lm_eval_runs():
                splits = _load(spec, encoder, seed, shares)
        except TaskError as error:
            problems += [local_files.with_file(spec.name, sentence) for sentence in error.problems]
            continue
        if splits.search.name in loaded:
            problems.append(f"task {splits.search.name!r} is asked for twice; name it once")
        loaded[splits.search.name] = splits
    if problems:
        raise TaskError(problems)
    return loaded


def _load(
    spec: TaskSpec, encoder: Encoder, seed: int, shares: tuple[float, float, float]
) -> TaskSplits:
    if spec.metric == "divergence" and spec.member is None:
        raise TaskError(
            f"task {spec.name!r}: metric divergence needs 'member', the one it is measured from"
        )
    opened = open_task(spec)
    apart = open_test_task(spec)
    if apart is not None and spec.test_task is None and apart.splits == opened.splits:
        apart = None
    if spec.test_task is None:
        refuse_leak(opened, apart or opened)
    documents = limited(
        opened.name,
        divide(
            opened.name,
            all_documents(opened),
            test=None if apart is None else all_documents(apart),
            shares=shares,
            seed=seed,
        ),
        spec.limit,
        spec.test_limit,
    )
    search = build_task(opened, documents.search, encoder, spec)
    selection = build_task(opened, documents.selection, encoder, spec)
    test = build_task(apart or opened, documents.test, encoder, spec)
    _refuse_unmeasured(spec, search.name, [m for m in search.metrics if m in test.metrics])
    return TaskSplits(
        search=search,
        selection=selection,
        test=test,
        test_docs=by_subtask(documents.test),
        notes=(*opened.notes, *_perplexity_notes(opened, spec.metric), *documents.notes),
        spec=spec,
    )


def _refuse_unmeasured(spec: TaskSpec, name: str, metrics: Sequence[str]) -> None:
    """Refuse a metric, or the proxy that it is ranked by, which this kind of task has not."""
    proxy = METRICS[spec.metric].proxy
    for metric in (spec.metric, proxy or spec.metric):
        if metric not in metrics:
            needed = "" if metric == spec.metric else f", the proxy of {spec.metric!r}"
            raise TaskError(
                f"task {name!r} can't be measured by {metric!r}{needed}; its metrics are: "
                + ", ".join(metrics)
            )


def _perplexity_notes(opened: LoadedTask, metric: str) -> list[str]:
    if len(opened.subtasks) > 1 and METRICS[metric].transform == "exp":
        return [
            f"group {opened.name!r}: its {metric} is the perplexity of the mean, where "
            "lm-eval takes the mean of its tasks' perplexities"
        ]
    return []
