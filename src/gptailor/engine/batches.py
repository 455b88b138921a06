"""Pack passages into batches for prefix-tree attention.

A row is a prefix tree of tokens: the choices of a question share its context, and questions share
their instructions and worked examples. A token attends to its ancestors only, and its position is
its depth. So every common prefix is run once a row, and only the ends of rows are padded. The last
token of a continuation is only predicted, so it is not an input. Batches depend on the passages
alone, never on a candidate.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptailor.engine.token_tree import TokenTree
from gptailor.tasks.task import Passage

__all__ = ["Batch", "pack"]

BATCH_TOKENS = 2048
# The length of row in which attention costs as much as the rest of a layer: on a 2-core CPU a
# quarter of a layer's time was spent in attention over rows of 256 tokens, at hidden size 576.
ATTENTION_TOKENS = 768.0
_ROW_TOKENS = (*range(48, 256, 8), *range(256, 512, 32), 512, 768, 1024, 1536, 2048, 4096)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Packed rows, and the targets: the tokens to be predicted.

    B rows of T tokens; M targets of G distinct positions.

    Args:
        tokens: Input ids, int64 (B, T).
        positions: Each token's position in its own sequence, int64 (B, T).
        ends: End (exclusive) of each token's subtree in the row, int64 (B, T); 0 at padding.
        gather: Positions whose hidden state predicts something, int64 (G,) into B * T.
        target_place: For each target, its index in `gather`, int64 (M,).
        target_token: For each target, the token to be predicted, int64 (M,).
        target_span: For each target, the index in `spans` of its continuation, int64 (M,).
        spans: For each continuation, (index of its passage in `passages`, its index there).
        passages: The passages in the order of the rows.
        numbers: For each passage, its index in the list given to `pack`.
    """

    tokens: Tensor
    positions: Tensor
    ends: Tensor
    gather: Tensor
    target_place: Tensor
    target_token: Tensor
    target_span: Tensor
    spans: tuple[tuple[int, int], ...]
    passages: tuple[Passage, ...]
    numbers: tuple[int, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens run through each layer, padding among them."""
        return self.tokens.numel()

    @property
    def n_padding(self) -> int:
        """Padding tokens at the ends of rows."""
        return int((self.ends == 0).sum())

    def split(self) -> tuple["Batch", ...]:
        """Two batches of half the passages each, in order; itself alone if there is but one."""
        half = len(self.passages) // 2
        if half == 0:
            return (self,)
        width = self.tokens.shape[1]
        return tuple(
            _batch(self.passages[end], self.numbers[end], _split_rows(self.passages[end], width))
            for end in (slice(None, half), slice(half, None))
        )

    def visible(self) -> Tensor:
        """Which token may attend to which, sliding windows aside: bool (B, T, T), [query, key]."""
        index = torch.arange(self.tokens.shape[1])
        before = index[None, :] <= index[:, None]  # (T, T)
        return before & (index[:, None] < self.ends[:, None, :])  # (B, T, T)

    def gathered(self, hidden: Tensor) -> Tensor:
        """Hidden states at `gather`: (B, T, H) -> (G, H)."""
        return hidden.flatten(0, 1)[self.gather.to(hidden.device)]


def pack(
    passages: Sequence[Passage],
    *,
    row_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    attention_tokens: float = ATTENTION_TOKENS,
) -> tuple[Batch, ...]:
    """Pack passages into batches of about equal work.

    Passages with a common prefix share a row where there is room; rows of similar length share a
    batch.

    Args:
        passages: To be scored; every one is in exactly one batch.
        row_tokens: Most tokens of a row, the cheapest of several if None; a longer passage has a
            row of its own.
        batch_tokens: Most tokens of a batch, padding counted; a longer row has its own batch.
        attention_tokens: The length of row in which attention costs as much as the rest of a layer.
    """
    order = sorted(range(len(passages)), key=lambda index: passages[index].context)
    sizes = _sizes([passages[index] for index in order])
    limits = _ROW_TOKENS if row_tokens is None else (row_tokens,)
    batches = min(
        (_grouped(_rows(sizes, limit), batch_tokens) for limit in limits),
        key=lambda batches: _cost(batches, attention_tokens),
    )
    packed = []
    for group in batches:
        rows = [range(row.start, row.stop) for row in group]
        numbers = tuple(order[index] for row in rows for index in row)
        starts = itertools.accumulate((len(row) for row in rows), initial=0)
        local = [range(start, start + len(row)) for start, row in zip(starts, rows, strict=False)]
        packed.append(_batch(tuple(passages[index] for index in numbers), numbers, local))
    return tuple(packed)


@dataclass(frozen=True, slots=True)
class _Row:
    """Consecutive passages, from `start` to `stop` (exclusive), and their distinct tokens."""

    start: int
    stop: int
    n_tokens: int


def _sizes(passages: Sequence[Passage]) -> list[tuple[int, int]]:
    """For each passage: its distinct tokens, and how many of them the passage before it has too."""
    sizes = []
    before = TokenTree()
    for passage in passages:
        tree, common = TokenTree(), 0
        for continuation in passage.continuations:
            tokens = passage.context + continuation[:-1]
            n_before = len(tree)
            tree.add(tokens)
            n_known = len(tokens) - (len(tree) - n_before)
            common += max(0, before.common(tokens) - n_known)
        sizes.append((len(tree), common))
        before = tree
    return sizes


def _rows(sizes: Sequence[tuple[int, int]], row_tokens: int) -> list[_Row]:
    """Fill rows one after the other."""
    rows: list[_Row] = []
    start, n_tokens = 0, 0
    for index, (alone, common) in enumerate(sizes):
        if index > start and n_tokens + alone - common > row_tokens:
            rows.append(_Row(start, index, n_tokens))
            start, n_tokens = index, 0
        n_tokens += alone if index == start else alone - common
    rows.append(_Row(start, len(sizes), n_tokens))
    return rows


def _grouped(rows: list[_Row], batch_tokens: int) -> list[list[_Row]]:
    """Fill batches with rows, the longest first."""
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: -row.n_tokens):
        if not batches or batches[-1][0].n_tokens * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def _cost(batches: Sequence[Sequence[_Row]], attention_tokens: float) -> float:
    """Relative cost of one layer: longer rows share more, pad less and cost more attention."""
    cost = 0.0
    for rows in batches:
        width = rows[0].n_tokens
        cost += len(rows) * width * (1 + width / attention_tokens)
    return cost


def _split_rows(passages: Sequence[Passage], row_tokens: int) -> list[range]:
    rows = _rows(_sizes(passages), row_tokens)
    return [range(row.start, row.stop) for row in rows]


def _batch(passages: tuple[Passage, ...], numbers: tuple[int, ...], rows: Sequence[range]) -> Batch:
    laid_out = [_row(passages, row) for row in rows]
    width = max(len(tokens) for tokens, _, _, _ in laid_out)
    shape = (len(rows), width)
    tokens, positions, ends = (np.zeros(shape, np.int64) for _ in range(3))
    spans: list[tuple[int, int]] = []
    targets: list[tuple[int, int, int]] = []
    for row, (ids, where, end, asked) in enumerate(laid_out):
        tokens[row, : len(ids)], positions[row, : len(ids)], ends[row, : len(ids)] = ids, where, end
        for span, found in asked:
            targets += [(row * width + index, token, len(spans)) for index, token in found]
            spans.append(span)
    flat, target_token, target_span = (
        np.array(column, np.int64) for column in zip(*targets, strict=True)
    )
    gather, target_place = np.unique(flat, return_inverse=True)
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        ends=torch.from_numpy(ends),
        gather=torch.from_numpy(gather),
        target_place=torch.from_numpy(target_place),
        target_token=torch.from_numpy(target_token),
        target_span=torch.from_numpy(target_span),
        spans=tuple(spans),
        passages=passages,
        numbers=numbers,
    )


_Asked = list[tuple[tuple[int, int], list[tuple[int, int]]]]


def _row(passages: Sequence[Passage], row: range) -> tuple[list[int], list[int], list[int], _Asked]:
    """One row: token ids, positions, ends; and for each continuation its (index, token) pairs."""
    tree = TokenTree()
    nodes = []
    for index in row:
        context = tree.add(passages[index].context)
        for number, continuation in enumerate(passages[index].continuations):
            leading = [context[-1], *tree.add(continuation[:-1], after=context[-1])]
            nodes.append(((index, number), leading, continuation))
    places, tokens, positions, ends = tree.laid_out()
    asked = [
        (span, [(places[node], token) for node, token in zip(leading, continuation, strict=True)])
        for span, leading, continuation in nodes
    ]
    return tokens, positions, ends, asked
