"""LoadedTask: a task or group as lm-eval made it, and its documents turned into examples.

Holds lm-eval's task objects and never imports it: `harness` makes them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptailor.errors import TaskError
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.lm_eval.building import build_examples, list_documents, told_metrics
from gptailor.tasks.splits import Document
from gptailor.tasks.task import ExampleTask

__all__ = ["LoadedTask", "all_documents", "build_task", "by_leaf", "refuse_leak"]


@dataclass(frozen=True)
class LoadedTask:
    """A task or group as lm-eval made it, with one split chosen.

    Args:
        name: The task's or group's name.
        leaves: Name -> lm-eval's task object.
        labels: Leaf -> what to call it in messages: its name, and its file where it has one.
        equal_parts: Metrics for which every leaf counts the same.
        splits: Leaf -> the split chosen.
        shots: Leaf -> the split that few-shot examples come from, if any.
        notes: Sentences for the user.
    """

    name: str
    leaves: Mapping[str, Any]
    labels: Mapping[str, str]
    equal_parts: frozenset[str]
    splits: Mapping[str, str]
    shots: Mapping[str, str | None]
    notes: tuple[str, ...]


def all_documents(opened: LoadedTask) -> list[Document]:
    """Every document of every leaf's chosen split."""
    return [
        one
        for leaf, task in opened.leaves.items()
        for one in list_documents(leaf, task, opened.labels[leaf])
    ]


def refuse_leak(opened: LoadedTask, report: LoadedTask) -> None:
    """Refuse few-shot examples from the split that the test split lies in.

    The search would be shown what it is reported on.

    Raises:
        TaskError: Names the leaf and the split.
    """
    for leaf, source in opened.shots.items():
        if source is not None and source == report.splits.get(leaf):
            raise TaskError(
                f"{opened.labels[leaf]}: its few-shot examples come from the split {source!r}, "
                "where the test split lies too; report on another split (test_split), give the "
                "task a fewshot_split, or set num_fewshot to 0"
            )


def build_task(
    opened: LoadedTask, part: Sequence[Document], encoder: Encoder, *, divergence: bool
) -> ExampleTask:
    """Turn one part's documents into a task.

    Args:
        opened: Where the documents are from.
        part: In nested order.
        encoder: Of the family's tokenizer.
        divergence: Whether the outcomes will carry a divergence.
    """
    made = {
        leaf: build_examples(
            opened.labels[leaf],
            opened.leaves[leaf],
            [one for one in part if one.leaf == leaf],
            encoder,
        )
        for leaf in by_leaf(part)
    }
    built = tuple(made[document.leaf][document.index] for document in part)
    metrics = told_metrics(built)
    return ExampleTask(
        name=opened.name,
        metrics=(*metrics, "divergence") if divergence else metrics,
        examples=built,
        origins=tuple((document.leaf, document.index) for document in part),
        equal_parts=opened.equal_parts,
    )


def by_leaf(part: Iterable[Document]) -> dict[str, tuple[int, ...]]:
    """The indices of the documents, rising, by leaf."""
    indices: dict[str, list[int]] = {}
    for document in sorted(part, key=lambda one: (one.leaf, one.index)):
        indices.setdefault(document.leaf, []).append(document.index)
    return {leaf: tuple(found) for leaf, found in indices.items()}
