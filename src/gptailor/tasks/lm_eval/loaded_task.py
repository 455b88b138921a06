"""LoadedTask: a task or group as lm-eval made it, and its documents turned into examples.

Does not import lm-eval.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gptailor.core.metrics import METRICS
from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError, unknown
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.lm_eval.building import build_examples, common_metrics, list_documents
from gptailor.tasks.lm_eval.lm_eval_task import LmEvalTask
from gptailor.tasks.splits import Document
from gptailor.tasks.task import Task, made_up_outcomes

__all__ = [
    "LoadedTask",
    "all_documents",
    "build_task",
    "by_subtask",
    "choose_split",
    "refuse_leak",
    "set_fewshot",
]


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


def choose_split(label: str, task: LmEvalTask, wanted: str | None) -> str:
    """Make a split the one that lm-eval evaluates.

    Args:
        label: What to call the task in messages.
        task: lm-eval's task object; its `test_split` is set.
        wanted: A split of the data, or ``train``, ``validation``, ``test`` for what the task calls
            so; None for the task's validation split, else its test, else its training split.

    Returns:
        The split, as the data call it.
    """
    roles = {
        "validation": task.config.validation_split,
        "test": task.config.test_split,
        "train": task.config.training_split,
    }
    known = list(task.dataset)
    split = wanted
    if wanted is None:
        split = next((role for role in roles.values() if role is not None), None)
    elif wanted not in known:
        split = roles.get(wanted)
    if split not in known:
        raise TaskError(f"{label}: " + unknown("split", split or wanted, known))
    task.set_config("test_split", split)
    task.features = list(task.eval_docs.features)
    return str(split)


def set_fewshot(name: str, task: LmEvalTask, wanted: int | None) -> tuple[str | None, list[str]]:
    """Set the number of worked examples before each question, as lm-eval would.

    Returns:
        The split that they are drawn from (None where there are none, or the task lists them), and
        notes for the user.
    """
    notes = []
    if wanted is not None:
        if task.config.num_fewshot == 0 and wanted != 0:
            notes.append(f"task {name!r}: its own num_fewshot of 0 is kept, as lm-eval keeps it")
        else:
            task.set_config("num_fewshot", wanted)
    if task.config.num_fewshot is None:
        task.set_config("num_fewshot", 0)
    if not task.config.num_fewshot:
        return None, notes
    shots = task.fewshot_cfg
    if shots.split is not None:
        return str(shots.split), notes
    if shots.samples is not None:
        return None, notes
    own = (task.config.training_split, task.config.validation_split, task.config.test_split)
    source = next(split for split in own if split is not None)
    # set, so that lm-eval leaves the question itself out of its own examples
    shots.split = source
    return str(source), notes


def all_documents(opened: LoadedTask) -> list[Document]:
    """Every document of every subtask's chosen split."""
    return [
        one
        for subtask, task in opened.subtasks.items()
        for one in list_documents(subtask, task, opened.labels[subtask])
    ]


def refuse_leak(opened: LoadedTask, tested: LoadedTask) -> None:
    """Refuse few-shot examples from the split that the test split lies in.

    The search would see test examples.

    Raises:
        TaskError: Names the subtask and the split.
    """
    for subtask, source in opened.shots.items():
        if source is not None and source == tested.splits.get(subtask):
            raise TaskError(
                f"{opened.labels[subtask]}: its few-shot examples come from the split {source!r}, "
                "where the test split is too; test on another split (test_split), give the "
                "task a fewshot_split, or set num_fewshot to 0"
            )


def build_task(
    opened: LoadedTask, split: Sequence[Document], encoder: Encoder, spec: TaskSpec
) -> Task:
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
    task = Task(
        name=opened.name,
        metrics=(*common_metrics(built), *plugins, *divergence),
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
