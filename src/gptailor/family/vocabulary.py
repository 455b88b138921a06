"""Take from a variant the rows of the base's tokens, and no others.

A variant may have a padded vocabulary or a few added tokens; the base's tokens must stand at the
same ids. Knows nothing of what rows hold.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gptailor.family.layout import Layout

__all__ = ["base_rows", "token_faults"]

_TOLD = 3  # of many tokens
# names that say that a token is free for anyone to give a meaning to
_FREE = re.compile(r"reserved|unused|placeholder|extra_id|dummy", re.IGNORECASE)


def base_rows(
    state: Mapping[str, Tensor], n_tokens: int, layout: Layout
) -> tuple[dict[str, Tensor], int]:
    """Cut embedding and head to the base's rows.

    Args:
        state: The variant's weights.
        n_tokens: Rows of the base's embedding.
        layout: The base's.

    Returns:
        The weights, and how many rows were dropped from each; 0 where none were.
    """
    rows = state[layout.embedding].shape[0]
    if rows <= n_tokens:
        return dict(state), 0
    bias = f"{layout.head.removesuffix('weight')}bias"
    cut = {
        name: tensor[:n_tokens].clone()  # a slice would keep the whole in memory
        if name in (layout.embedding, layout.head, bias) and tensor.shape[0] == rows
        else tensor
        for name, tensor in state.items()
    }
    return cut, rows - n_tokens


def token_faults(name: str, tokenizer: Any, base_tokenizer: Any) -> list[str]:
    """Tell where a variant has other tokens at the base's ids.

    Args:
        name: The variant's.
        tokenizer: The variant's transformers tokenizer, or None: rows are then taken as they are.
        base_tokenizer: The base's, or None.
    """
    if tokenizer is None or base_tokenizer is None:
        return []
    theirs = {number: token for token, number in tokenizer.get_vocab().items()}
    differing = sorted(
        (number, token, theirs.get(number))
        for token, number in base_tokenizer.get_vocab().items()
        if theirs.get(number) != token and not _FREE.search(token)
    )
    if not differing:
        return []
    examples = ", ".join(
        f"id {number} is {token!r} in the base and {other!r} in {name}"
        for number, token, other in differing[:_TOLD]
    )
    return [
        f"variant {name!r}: {len(differing)} tokens differ from the base's ({examples}); "
        "all variants of a family must share one vocabulary"
    ]
