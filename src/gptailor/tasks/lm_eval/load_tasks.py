"""Load tasks through lm-eval: divide their examples into splits and tokenise every request once.

Requests are built by lm-eval's own task objects and tokenised as its Hugging Face backend does it,
so a model's scores here are lm-eval's own, example by example. lm-eval is imported inside
functions: it is slow, and most of the program does without it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from gptailor.core.metrics import METRICS, WRITTEN
from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.lm_eval.building import build_examples, common_metrics, list_documents
from gptailor.tasks.lm_eval.chat import Chat, chat_of
from gptailor.tasks.lm_eval.local_files import is_path
from gptailor.tasks.lm_eval.open_task import (
    LoadedTask,
    as_lm_eval_runs,
    open_task,
    open_test_task,
)
from gptailor.tasks.lm_eval.shots import without
from gptailor.tasks.splits import Document, TaskSplits, divide, limited
from gptailor.tasks.task import Task, made_up_outcomes

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
        ConfigError: A metric is unknown here: a worker lacks the plug-in.
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
            file = f"{spec.name}: " if is_path(spec.name) else ""
            problems += [
                f"{file}{sentence}"
                if sentence.startswith(("task ", "group ", "unknown "))
                else sentence
                for sentence in error.problems
            ]
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
    chat = chat_of(spec, encoder.tokenizer)
    opened = open_task(spec)
    apart = open_test_task(spec)
    if apart is not None and spec.test_task is None and apart.splits == opened.splits:
        apart = None
    if spec.test_task is None:
        _refuse_leak(opened, apart or opened)
    documents = divide(
        opened.name,
        _all_documents(opened),
        test=None if apart is None else _all_documents(apart),
        shares=shares,
        seed=seed,
    )
    held_out = documents.selection + documents.test
    documents = limited(opened.name, documents, spec.limit, spec.test_limit)
    encoder = replace(encoder, long=set())
    with without(held_out, opened):
        search = _build_task(opened, documents.search, encoder, chat, spec)
        selection = _build_task(opened, documents.selection, encoder, chat, spec)
    test = _build_task(apart or opened, documents.test, encoder, chat, spec)
    test = replace(test, name=opened.name)  # scores of all splits are kept by the task's name
    _refuse_unmeasured(spec, search, [m for m in search.metrics if m in test.metrics])
    notes = [*opened.notes, *chat.notes, *_length_notes(test, encoder)]
    if len(opened.subtasks) > 1 and METRICS[spec.metric].transform == "exp":
        notes.append(
            f"group {opened.name!r}: its {spec.metric} is the perplexity of the mean, where "
            "lm-eval takes the mean of its tasks' perplexities"
        )
    test_docs = _by_subtask(documents.test)
    return TaskSplits(search, selection, test, test_docs, spec, (*notes, *documents.notes))


def _refuse_unmeasured(spec: TaskSpec, task: Task, metrics: Sequence[str]) -> None:
    """Refuse a metric, or its proxy, that this kind of task lacks, or that leaves texts unread."""
    for metric in (spec.metric, task.proxy(spec.metric)):
        if metric not in metrics:
            plain, _, filtered = metric.partition(",")
            if filtered == "none" and plain in metrics:
                raise TaskError(
                    f"task {task.name!r}: metric: {metric!r} is how lm-eval prints {plain!r} where "
                    f"no filter is used; write {plain}"
                )
            needed = "" if metric == spec.metric else f", the proxy of {spec.metric!r}"
            raise TaskError(
                f"task {task.name!r} can't be measured by {metric!r}{needed}; its metrics are: "
                + ", ".join(metrics)
            )
    of_text = [name for name in metrics if name.partition(",")[0] in WRITTEN]
    if task.writes and spec.metric not in of_text:
        raise TaskError(
            f"task {task.name!r} lets a model write, and {spec.metric!r} does not look at the "
            f"text; use one of {', '.join(of_text)}, or write the task with output_type: "
            "loglikelihood"
        )


def _length_notes(task: Task, encoder: Encoder) -> list[str]:
    """How many inputs are longer than a model is fed at once, and what becomes of them."""
    if not encoder.long:
        return []
    whole = any(one.output_type == "loglikelihood_rolling" for one in task.examples)
    fate = "are scored in windows of so many" if whole else "lose their beginning"
    return [
        f"task {task.name!r}: {len(encoder.long)} inputs are longer than the "
        f"{encoder.max_length:,} tokens that a model is fed at once (engine.max_length), and {fate}"
    ]


def _all_documents(opened: LoadedTask) -> list[Document]:
    return [
        one
        for subtask, task in opened.subtasks.items()
        for one in list_documents(subtask, task, opened.labels[subtask])
    ]


def _refuse_leak(opened: LoadedTask, tested: LoadedTask) -> None:
    """Refuse few-shot examples from the test split: the search would see test examples."""
    for subtask, source in opened.shots.items():
        if source is not None and source == tested.splits.get(subtask):
            raise TaskError(
                f"{opened.labels[subtask]}: its few-shot examples come from the split {source!r}, "
                "where the test split is too; test on another split (test_split), give the "
                "task a fewshot_split, or set num_fewshot to 0"
            )


def _build_task(
    opened: LoadedTask, split: Sequence[Document], encoder: Encoder, chat: Chat, spec: TaskSpec
) -> Task:
    """Turn one split's documents, in nested order, into a task."""
    made = {}
    for subtask in _by_subtask(split):
        label, task = opened.labels[subtask], opened.subtasks[subtask]
        wanted = [document for document in split if document.subtask == subtask]
        made[subtask] = build_examples(label, task, wanted, encoder, chat)
    built = tuple(made[document.subtask][document.index] for document in split)
    ranking = dict.fromkeys((spec.metric, METRICS[spec.metric].proxy or spec.metric))
    plugins = [name for name in ranking if METRICS[name].measure is not None]
    divergence = [] if spec.member is None else ["divergence"]
    equal = opened.equal_subtasks
    built_task = Task(
        name=opened.name,
        metrics=(*_wanted(common_metrics(built), spec), *plugins, *divergence),
        examples=built,
        origins=tuple((document.subtask, document.index) for document in split),
        equal_subtasks=equal | set(plugins) if "divergence" in equal else equal,
    )
    if plugins:
        built_task.measure(0, made_up_outcomes(built[0]))  # its errors come now
    return built_task


def _wanted(metrics: Sequence[str], spec: TaskSpec) -> list[str]:
    """Leave out the second name of each metric where a task has one filter of written text."""
    twice = {name.partition(",")[0] for name in metrics if "," in name}.intersection(metrics)
    filtered = "," in spec.metric
    return [
        name for name in metrics if name.partition(",")[0] not in twice or ("," in name) == filtered
    ]


def _by_subtask(split: Iterable[Document]) -> dict[str, tuple[int, ...]]:
    """The indices of the documents, rising, by subtask."""
    indices: dict[str, list[int]] = {}
    for document in sorted(split, key=lambda one: (one.subtask, one.index)):
        indices.setdefault(document.subtask, []).append(document.index)
    return {subtask: tuple(found) for subtask, found in indices.items()}
