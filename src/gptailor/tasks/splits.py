"""DocumentSplits: which documents a search sees, which it chooses by, and which it reports on.

Documents that read the same are never in two splits. Knows documents only by their leaf task,
index and text; so the splits depend on the seed and the data, never on a tokenizer or a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gptailor.errors import TaskError
from gptailor.tasks.task import nested_order

__all__ = ["Document", "DocumentSplits", "divide", "limited"]


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a task.

    Args:
        leaf: The leaf task that it belongs to.
        index: Its place in that task's split.
        text: All that a model could be shown of it; equal texts are duplicates.
        raw: Context, choices (None where there are none) and target, as the task's templates
            gave them; kept because rendering them is slow.
    """

    leaf: str
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
        test: Documents kept apart for testing; None to take them from `documents` too.
        shares: Of the search, selection and test splits; the last is unused where `test` is given.
        seed: Same seed, same splits.

    Returns:
        Splits in nested order; each leaf has its share of each, within a document or two.

    Raises:
        TaskError: A split would be empty.
    """
    units = _units(documents)
    order = nested_order([unit[0].leaf for unit in units], seed)
    wanted = shares if test is None else (shares[0], shares[1], 0.0)
    n_test, n_selection = _counts(len(units), wanted)
    kept = [units[place] for place in order[:n_test]]
    chosen = [units[place] for place in order[n_test : n_test + n_selection]]
    searched = [units[place] for place in order[n_test + n_selection :]]
    notes: list[str] = []
    if test is None:
        reported = [document for unit in kept for document in unit]
    else:
        seen = {unit[0].text for unit in (*chosen, *searched)}
        reported = [document for document in test if document.text not in seen]
        if dropped := len(test) - len(reported):
            notes.append(
                f"task {name!r}: {dropped} of {len(test)} test examples also stand among the "
                "search or selection examples and were dropped"
            )
    parts = DocumentSplits(
        search=_ordered([d for unit in searched for d in unit], seed),
        selection=_ordered([d for unit in chosen for d in unit], seed),
        test=_ordered(reported, seed),
        notes=tuple(notes),
    )
    _refuse_empty(name, parts, (len(documents), len(units)), wanted)
    return parts


def limited(
    name: str, parts: DocumentSplits, limit: int | None, test_limit: int | None = None
) -> DocumentSplits:
    """Keep the first documents of the search split and of the test split, and say so.

    Args:
        name: The task's, for the notes.
        parts: In nested order, so that the first ones stand for all.
        limit: At most so many of the search split; None for all.
        test_limit: At most so many of the test split; None for all.
    """
    notes = list(parts.notes)
    counts = (("search", limit, len(parts.search)), ("test", test_limit, len(parts.test)))
    for part, wanted, n in counts:
        if wanted is not None and wanted < n:
            notes.append(f"task {name!r}: the {part} uses {wanted} of {n} examples (limit)")
    return DocumentSplits(
        search=parts.search[:limit],
        selection=parts.selection,
        test=parts.test[:test_limit],
        notes=tuple(notes),
    )


def _units(documents: Sequence[Document]) -> list[list[Document]]:
    """Gather duplicates, in the order of their first."""
    units: dict[tuple[str, ...], list[Document]] = {}
    for document in documents:
        units.setdefault(document.text, []).append(document)
    return list(units.values())


def _counts(n: int, shares: tuple[float, float, float]) -> tuple[int, int]:
    """How many units to report on and to choose by; at least one each where a share is asked."""
    total = sum(shares)
    n_selection, n_test = (
        max(1, round(n * share / total)) if share > 0 else 0 for share in shares[1:]
    )
    return n_test, n_selection


def _ordered(documents: Sequence[Document], seed: int) -> tuple[Document, ...]:
    by_place = sorted(documents, key=lambda document: (document.leaf, document.index))
    order = nested_order([document.leaf for document in by_place], seed)
    return tuple(by_place[place] for place in order)


def _refuse_empty(
    name: str, parts: DocumentSplits, counts: tuple[int, int], shares: tuple[float, float, float]
) -> None:
    """Refuse a split without examples; `counts` are all examples and those that differ."""
    sizes = {"search": parts.search, "selection": parts.selection, "test": parts.test}
    empty = [part for part, documents in sizes.items() if not documents]
    if empty:
        n, n_unlike = counts
        alike = "" if n == n_unlike else f", {n_unlike} of them unlike the others,"
        raise TaskError(
            f"task {name!r}: the {' and '.join(empty)} split would be empty: {n} examples{alike} "
            f"divided by the shares {shares[0]:g} : {shares[1]:g} : {shares[2]:g} (search : "
            "selection : test); give more examples or other shares"
        )
