"""Match a variant's rows of vocabulary to the base's tokens, by the tokens' text.

The study uses the base's vocabulary. Ordinary tokens must have the same ids; added tokens (padding,
chat marks) may have other ids, be missing, or be more.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gptailor.errors import listed

__all__ = ["Matching", "match_rows"]

_MAX_LISTED = 3  # of many tokens
# names of tokens that anyone may give a meaning to
_FREE = re.compile(r"reserved|unused|placeholder|extra_id|dummy", re.IGNORECASE)
# numbers, capitals, spaces, marks, accents: tokenizers of one vocabulary split them differently
_PROBE = "It's 12345 HTMLTags,  x+=1;\n\n\tdef f(a_b):  # Na\u00efve e\u0301t\u00e9 \u4f60\u597d"
_BASE = -1  # instead of a row's index: the base's own row


@dataclass(frozen=True)
class Matching:
    """Which of a variant's rows belongs to which of the base's."""

    rows: tuple[int, ...]  # for each row of the base the variant's, or -1 for the base's own
    notes: tuple[str, ...] = ()

    def applied(self, theirs: Tensor, ours: Tensor) -> Tensor:
        """Put the variant's rows (its V, ...) in the order of the base's (V, ...)."""
        if self.rows == tuple(range(theirs.shape[0])):
            return theirs
        wanted = torch.tensor(self.rows)
        known = wanted != _BASE
        taken = ours.to(dtype=theirs.dtype, copy=True)
        taken[known] = theirs[wanted[known]]
        return taken


def match_rows(
    name: str, tokenizers: tuple[Any, Any], sizes: tuple[int, int]
) -> tuple[Matching | None, list[str]]:
    """Match a variant's rows of vocabulary to the base's; None if there are problems.

    Args:
        name: The variant's.
        tokenizers: The variant's and the base's; without both, rows are matched by index.
        sizes: Rows of the variant's embedding, and of the base's.
    """
    theirs, ours = tokenizers
    n_theirs, n_ours = sizes
    same = Matching(tuple(range(n_ours)))
    if theirs is None or ours is None:
        if n_theirs < n_ours:
            return None, [
                f"the embedding has {n_theirs} rows but the base has {n_ours}, and without the "
                "tokenizers of both it is not known which tokens they are; save each tokenizer "
                "beside its model"
            ]
        changes = [f"the last {n_theirs - n_ours} are left out"] if n_theirs > n_ours else []
        return replace(same, notes=_notes(name, sizes, changes)), []
    if theirs is ours and n_theirs == n_ours:
        return same, []
    problems = _token_problems(name, theirs, ours)
    if problems:
        return None, problems
    matching = _matched_by_text(name, theirs.get_vocab(), ours.get_vocab(), sizes)
    if theirs.tokenize(_PROBE) == ours.tokenize(_PROBE):
        return matching, []
    splitting = (
        f"variant {name!r} has the base's tokens but splits text into them in another way; "
        "the base's tokenizer is the study's"
    )
    return replace(matching, notes=(*matching.notes, splitting)), []


def _matched_by_text(
    name: str, theirs: Mapping[str, int], ours: Mapping[str, int], sizes: tuple[int, int]
) -> Matching:
    n_theirs, n_ours = sizes
    texts = {number: token for token, number in ours.items() if number < n_ours}
    taken = set(theirs.values())
    rows, moved, missing = [], [], []
    for number in range(n_ours):
        token = texts.get(number)
        row = theirs.get(token, _BASE) if token is not None else number
        # rows of padding are matched by index, unless the variant has made a token of one
        free = token is not None or number not in taken
        rows.append(row if row < n_theirs and free else _BASE)
        if token is not None and rows[-1] == _BASE:
            missing.append(token)
        elif token is not None and row != number:
            moved.append(token)
    extra = sorted(theirs.keys() - ours.keys(), key=lambda token: (theirs[token], token))
    changes = []
    if moved:
        changes.append(f"{_texts(moved)} have other ids and are matched by their text")
    if missing:
        changes.append(f"it lacks {_texts(missing)}, which keep the base's rows")
    if extra:
        changes.append(f"{_texts(extra)}, which the base lacks, are left out")
    n_free = rows.count(_BASE) - len(missing)
    if n_free:
        changes.append(f"rows of no token keep the base's ({n_free})")
    return Matching(tuple(rows), _notes(name, sizes, changes))


def _notes(name: str, sizes: tuple[int, int], changes: Sequence[str]) -> tuple[str, ...]:
    much = f"variant {name!r} has {sizes[0]} rows of vocabulary and the base {sizes[1]}"
    note = "; ".join((much, *changes, "the study's vocabulary is the base's"))
    return (note,) if changes or sizes[0] != sizes[1] else ()


def _texts(tokens: Sequence[str]) -> str:
    return listed([repr(token) for token in tokens], _MAX_LISTED)


def _token_problems(name: str, tokenizer: Any, base_tokenizer: Any) -> list[str]:
    """Ordinary tokens that the variant has at other ids than the base, as a sentence."""
    movable = {*tokenizer.get_added_vocab(), *base_tokenizer.get_added_vocab()}
    theirs = {number: token for token, number in tokenizer.get_vocab().items()}
    differing = sorted(
        (number, token, theirs.get(number))
        for token, number in base_tokenizer.get_vocab().items()
        if theirs.get(number) != token and token not in movable and not _FREE.search(token)
    )
    if not differing:
        return []
    examples = ", ".join(
        f"id {number} is {token!r} in the base and {other!r} in {name}"
        for number, token, other in differing[:_MAX_LISTED]
    )
    return [
        f"{len(differing)} tokens differ from the base's ({examples}); "
        "all variants of a family must share one tokenizer, but for added tokens"
    ]
