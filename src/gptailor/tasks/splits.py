"""Splits: which examples the search sees, which select the result, and which test it.

Documents with equal text are never in two splits. A document is its subtask, index and text; so
the splits depend on the seed and the data, never on a tokenizer or a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.task import Task, nested_order

__all__ = ["Document", "DocumentSplits", "TaskSplits", "divide", "limited"]


@dataclass(frozen=True)
class TaskSplits:
    """The three splits of a task; no two share an example.

    Args:
        search: Candidates are ranked on it.
        selection: The winner is picked on it.
        test: The result's scores are reported on it.
        test_docs: Subtask -> indices of the test examples in its data split, rising.
        spec: What the user asked for.
        notes: Sentences for the user.
    """

    search: Task
    selection: Task
    test: Task
    test_docs: Mapping[str, tuple[int, ...]]
    spec: TaskSpec
    notes: tuple[str, ...] = ()

    @property
    def by_name(self) -> dict[str, Task]:
        """``search``, ``selection`` and ``test`` to the split."""
        return {"search": self.search, "selection": self.selection, "test": self.test}


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a task.

    Args:
        subtask: The task of lm-eval that it belongs to.
        index: In that task's data split.
        text: All that a model could be shown of it; equal texts are duplicates.
        raw: Context, choices (None where there are none) and target, as rendered from the task's
            templates; kept because rendering is slow.
    """

    subtask: str
    index: int
    text: tuple[str, ...]
    raw: tuple[Any, Any, Any] = field(default=(None, None, None), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class DocumentSplits:
    """The three splits of a task, each in nested order, and what the user should know."""

    search: tuple[Document, ...]
    selection: tuple[Document, ...]
    test: tuple[Document, ...]
    notes: tuple[str, ...] = ()


def divide(
    name: str,
    documents: Sequence[Document],
    *,
    test: Sequence[Document] | None,
    shares: tuple[float, float, float],
    seed: int,
) -> DocumentSplits:
    """Divide a task's documents into a search, a selection and a test split.

    Args:
        name: The task's name, for messages.
        documents: Of the split that is searched.
        test: Documents of the test split; None to take it from `documents` too.
        shares: Of the search, selection and test splits; the last is unused where `test` is given.
        seed: Same seed, same splits.

    Returns:
        Splits in nested order; each subtask has its share of each, within a document or two.

    Raises:
        TaskError: A split would be empty.
    """
    units = _units(documents)
    order = nested_order([unit[0].subtask for unit in units], seed)
    wanted = shares if test is None else (shares[0], shares[1], 0.0)
    n_test, n_selection = _counts(len(units), wanted)
    tested = [units[index] for index in order[:n_test]]
    selected = [units[index] for index in order[n_test : n_test + n_selection]]
    searched = [units[index] for index in order[n_test + n_selection :]]
    notes: list[str] = []
    if test is None:
        reported = [document for unit in tested for document in unit]
    else:
        seen = {unit[0].text for unit in (*selected, *searched)}
        reported = [document for document in test if document.text not in seen]
        if dropped := len(test) - len(reported):
            notes.append(
                f"task {name!r}: {dropped} of {len(test)} test examples are also among the "
                "search or selection examples and were dropped"
            )
    splits = DocumentSplits(
        search=_ordered([d for unit in searched for d in unit], seed),
        selection=_ordered([d for unit in selected for d in unit], seed),
        test=_ordered(reported, seed),
        notes=tuple(notes),
    )
    _refuse_empty(name, splits, (len(documents), len(units)), wanted)
    return splits


def limited(
    name: str, splits: DocumentSplits, limit: int | None, test_limit: int | None = None
) -> DocumentSplits:
    """Cut the search and the test split to limits, and add a note.

    Args:
        name: The task's, for the notes.
        splits: In nested order, so that the first ones represent all.
        limit: At most so many of the search split; None for all.
        test_limit: At most so many of the test split; None for all.
    """
    notes = list(splits.notes)
    counts = (("search", limit, len(splits.search)), ("test", test_limit, len(splits.test)))
    for split, wanted, n in counts:
        if wanted is not None and wanted < n:
            notes.append(f"task {name!r}: the {split} split uses {wanted} of {n} examples (limit)")
    return DocumentSplits(
        search=splits.search[:limit],
        selection=splits.selection,
        test=splits.test[:test_limit],
        notes=tuple(notes),
    )


def _units(documents: Sequence[Document]) -> list[list[Document]]:
    """Gather duplicates, in the order of their first."""
    units: dict[tuple[str, ...], list[Document]] = {}
    for document in documents:
        units.setdefault(document.text, []).append(document)
    return list(units.values())


def _counts(n: int, shares: tuple[float, float, float]) -> tuple[int, int]:
    """How many units the test and selection splits get; at least one each if their share is > 0."""
    total = sum(shares)
    n_selection, n_test = (
        max(1, round(n * share / total)) if share > 0 else 0 for share in shares[1:]
    )
    return n_test, n_selection


def _ordered(documents: Sequence[Document], seed: int) -> tuple[Document, ...]:
    by_index = sorted(documents, key=lambda document: (document.subtask, document.index))
    order = nested_order([document.subtask for document in by_index], seed)
    return tuple(by_index[index] for index in order)


def _refuse_empty(
    name: str, splits: DocumentSplits, counts: tuple[int, int], shares: tuple[float, float, float]
) -> None:
    """Refuse a split without examples; `counts` are all examples and those that differ."""
    sizes = {"search": splits.search, "selection": splits.selection, "test": splits.test}
    empty = [split for split, documents in sizes.items() if not documents]
    if empty:
        n, n_unlike = counts
        alike = "" if n == n_unlike else f", {n_unlike} of them different,"
        raise TaskError(
            f"task {name!r}: the {' and '.join(empty)} split would be empty: {n} examples{alike} "
            f"divided by the shares {shares[0]:g} : {shares[1]:g} : {shares[2]:g} (search : "
            "selection : test); add examples or change the shares"
        )
