"""Splits: which examples the search sees, which select the result, and which test it.

Documents with equal text are never in two splits. A document is its subtask, index and text; so
the splits depend on the seed and the data, never on a tokenizer or a model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError
from gptailor.tasks.task import Task, nested_order

__all__ = ["SPLITS", "Document", "DocumentSplits", "TaskSplits", "divide", "limited"]

SPLITS = ("search", "selection", "test")


@dataclass(frozen=True)
class TaskSplits:
    """The three splits of a task; no two share an example."""

    search: Task  # candidates are ranked on it
    selection: Task  # the winner is picked on it
    test: Task  # the result's scores are reported on it
    test_docs: Mapping[str, tuple[int, ...]]  # subtask -> rising indices in its data split
    spec: TaskSpec
    notes: tuple[str, ...] = ()  # for the user

    @property
    def by_name(self) -> dict[str, Task]:
        """``search``, ``selection`` and ``test`` to the split."""
        return {"search": self.search, "selection": self.selection, "test": self.test}


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a task."""

    subtask: str
    index: int  # in the subtask's data split
    text: tuple[str, ...]  # all that a model could be shown of it; equal texts are duplicates
    # context, choices or None, and target, as rendered; kept because rendering is slow
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
    """Divide a task's documents into a search, a selection and a test split, in nested order.

    Each subtask has its share of each, within a document or two. Where test documents are given,
    the last share is unused.
    """
    alike: dict[tuple[str, ...], list[Document]] = {}
    for document in documents:
        alike.setdefault(document.text, []).append(document)
    units = list(alike.values())
    order = nested_order([unit[0].subtask for unit in units], seed)
    wanted = shares if test is None else (shares[0], shares[1], 0.0)
    # at least one unit for each split whose share is not 0
    n_selection, n_test = (
        max(1, round(len(units) * share / sum(wanted))) if share > 0 else 0 for share in wanted[1:]
    )
    tested = [units[index] for index in order[:n_test]]
    selected = [units[index] for index in order[n_test : n_test + n_selection]]
    searched = [units[index] for index in order[n_test + n_selection :]]
    notes: list[str] = []
    if test is None:
        reported = [document for unit in tested for document in unit]
    else:
        seen = {unit[0].text for unit in (*selected, *searched)}
        reported = [document for document in test if document.text not in seen]
        if test and not reported:
            raise TaskError(
                f"task {name!r}: all {len(test)} test examples are also among the search or "
                "selection examples, so none is unseen; name another test_task or test_split, or "
                "leave it out, so that the examples are divided"
            )
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
    """Keep at most `limit` of the search and `test_limit` of the test split, and add a note."""
    notes = list(splits.notes)
    counts = (("search", limit, len(splits.search)), ("test", test_limit, len(splits.test)))
    for split, wanted, n in counts:
        if wanted is not None and wanted < n:
            notes.append(f"task {name!r}: the {split} split uses {wanted} of {n} examples (limit)")
    return replace(
        splits, search=splits.search[:limit], test=splits.test[:test_limit], notes=tuple(notes)
    )


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
