"""LoadedTask: a task or group as lm-eval made it, and its documents turned into examples.

Holds lm-eval's task objects and never imports it: `harness` makes them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gptailor.core.metrics import METRICS
from gptailor.core.task_spec import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.lm_eval.building import build_examples, list_documents, told_metrics
from gptailor.tasks.lm_eval.lm_eval_task import LmEvalTask
from gptailor.tasks.splits import Document
from gptailor.tasks.task import ExampleTask, made_up_outcomes

__all__ = ["LoadedTask", "all_documents", "build_task", "by_subtask", "refuse_leak"]


@dataclass(frozen=True)
class LoadedTask:
    """A task or group as lm-eval made it, with one split chosen.

    Args:
        name: The task's or group's name.
        subtasks: Name -> lm-eval's task object; one where it is no group.
        labels: Subtask -> what to call it in messages: its name, and its file where it has one.
        equal_subtasks: Metrics for which every subtask counts the same.
        splits: Subtask -> the split chosen.
        shots: Subtask -> the split that few-shot examples come from, if any.
        notes: Sentences for the user.
    """

    name: str
    subtasks: Mapping[str, LmEvalTask]
    labels: Mapping[str, str]
    equal_subtasks: frozenset[str]
    splits: Mapping[str, str]
    shots: Mapping[str, str | None]
    notes: tuple[str, ...]


def all_documents(opened: LoadedTask) -> list[Document]:
    """Every document of every subtask's chosen split."""
    return [
        one
        for subtask, task in opened.subtasks.items()
        for one in list_documents(subtask, task, opened.labels[subtask])
    ]


def refuse_leak(opened: LoadedTask, report: LoadedTask) -> None:
    """Refuse few-shot examples from the split that the test split lies in.

    The search would be shown what it is reported on.

    Raises:
        TaskError: Names the subtask and the split.
    """
    for subtask, source in opened.shots.items():
        if source is not None and source == report.splits.get(subtask):
            raise TaskError(
                f"{opened.labels[subtask]}: its few-shot examples come from the split {source!r}, "
                "where the test split lies too; report on another split (test_split), give the "
                "task a fewshot_split, or set num_fewshot to 0"
            )


def build_task(
    opened: LoadedTask, split: Sequence[Document], encoder: Encoder, spec: TaskSpec
) -> ExampleTask:
    """Turn one split's documents into a task.

    Args:
        opened: Where the documents are from.
        split: In nested order.
        encoder: Of the family's tokenizer.
        spec: Its plug-in metric is measured, and a divergence where it names a member.

    Raises:
        TaskError: An example can't be asked, or the plug-in metric can't measure it.
    """
    made = {
        subtask: build_examples(
            opened.labels[subtask],
            opened.subtasks[subtask],
            [one for one in split if one.subtask == subtask],
            encoder,
        )
        for subtask in by_subtask(split)
    }
    built = tuple(made[document.subtask][document.index] for document in split)
    wanted = (spec.metric, METRICS[spec.metric].proxy or spec.metric)
    plugins = [name for name in dict.fromkeys(wanted) if METRICS[name].measure is not None]
    divergence = [] if spec.member is None else ["divergence"]
    equal = opened.equal_subtasks
    task = ExampleTask(
        name=opened.name,
        metrics=(*told_metrics(built), *plugins, *divergence),
        examples=built,
        origins=tuple((document.subtask, document.index) for document in split),
        equal_subtasks=equal | set(plugins) if "divergence" in equal else equal,
    )
    if plugins:
        task.measure(0, made_up_outcomes(built[0].passages))  # its errors come now
    return task


def by_subtask(split: Iterable[Document]) -> dict[str, tuple[int, ...]]:
    """The indices of the documents, rising, by subtask."""
    indices: dict[str, list[int]] = {}
    for document in sorted(split, key=lambda one: (one.subtask, one.index)):
        indices.setdefault(document.subtask, []).append(document.index)
    return {subtask: tuple(found) for subtask, found in indices.items()}
