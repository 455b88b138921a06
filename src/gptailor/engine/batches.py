"""Pack passages into batches for prefix-tree attention.

A row is a prefix tree of tokens: a token attends to its ancestors only, and its position is its
depth. So a prefix that choices or questions share is run once a row. The last token of a
continuation is only predicted, so it is not an input. Batches depend on the passages alone, never
on a candidate.
"""

import bisect
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gptailor.engine.device import moved
from gptailor.tasks.task import Passage

__all__ = ["Batch", "pack", "pieces"]

BATCH_TOKENS = 2048
# The length of row in which attention costs as much as the rest of a layer: on a 2-core CPU a
# quarter of a layer's time was spent in attention over rows of 256 tokens, at hidden size 576.
ATTENTION_TOKENS = 768.0
_ROW_TOKENS = (*range(48, 256, 8), *range(256, 512, 32), 512, 768, 1024, 1536, 2048, 4096)
_ROOT = -1  # parent of a sequence's first token


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Packed rows, and the targets: the tokens to be predicted.

    B rows of T tokens; M targets of G distinct positions; all tensors are int64.
    """

    tokens: Tensor  # input ids, (B, T)
    positions: Tensor  # of each token in its own sequence, (B, T)
    ends: Tensor  # end (exclusive) of each token's subtree in the row, (B, T); 0 at padding
    gather: Tensor  # positions whose hidden state predicts something, (G,) into B * T
    target_place: Tensor  # of each target, its index in `gather`, (M,)
    target_token: Tensor  # of each target, the token to be predicted, (M,)
    target_span: Tensor  # of each target, the index in `spans` of its continuation, (M,)
    spans: tuple[tuple[int, int], ...]  # (index in `passages`, index of the continuation there)
    passages: tuple[Passage, ...]  # in the order of the rows
    numbers: tuple[int, ...]  # of each passage, its index in the list given to `pack`

    @property
    def n_tokens(self) -> int:
        """Tokens run through each layer, padding among them."""
        return self.tokens.numel()

    def split(self) -> tuple["Batch", ...]:
        """Two batches of half the passages each, in order; itself alone if there is but one."""
        half = len(self.passages) // 2
        if half == 0:
            return (self,)
        halves = []
        for end in (slice(None, half), slice(half, None)):
            passages = self.passages[end]
            rows = [row.passages for row in _rows(_sizes(passages), self.tokens.shape[1])]
            halves.append(_batch(passages, self.numbers[end], rows))
        return tuple(halves)

    def visible(self, device: torch.device) -> Tensor:
        """Which token may attend to which, sliding windows aside: bool (B, T, T), [query, key]."""
        index = torch.arange(self.tokens.shape[1], device=device)
        before = index[None, :] <= index[:, None]  # (T, T)
        return before & (index[:, None] < moved(self.ends, device)[:, None, :])  # (B, T, T)

    def gathered(self, hidden: Tensor) -> Tensor:
        """Hidden states at `gather`: (B, T, H) -> (G, H)."""
        return hidden.flatten(0, 1)[moved(self.gather, hidden.device)]


def pack(
    passages: Sequence[Passage],
    *,
    row_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    attention_tokens: float = ATTENTION_TOKENS,
    bounds: Sequence[int] = (),
) -> tuple[Batch, ...]:
    """Pack passages into batches of about equal work, every passage into one.

    Passages with a common prefix share a row where there is room; rows of similar length share a
    batch. A passage longer than `row_tokens` has its own row, a row longer than `batch_tokens` its
    own batch. Without `row_tokens`, the cheapest of several lengths is chosen. Passages whose
    sequences `bounds` divides, see `pieces`, share no batch.
    """
    kinds: dict[int, list[int]] = {}
    for index, passage in enumerate(passages):
        kinds.setdefault(max(_kinds(passage, bounds)), []).append(index)
    if len(kinds) > 1:
        limits = (row_tokens, batch_tokens, attention_tokens)
        return tuple(
            dataclasses.replace(batch, numbers=tuple(alike[number] for number in batch.numbers))
            for _, alike in sorted(kinds.items())
            for batch in _packed([passages[index] for index in alike], *limits)
        )
    return _packed(passages, row_tokens, batch_tokens, attention_tokens)


def pieces(passage: Passage, bounds: Sequence[int]) -> Iterator[tuple[tuple[int, ...], Passage]]:
    """Divide a passage into those of its sequences that are of one kind.

    Args:
        passage: With continuations of any length.
        bounds: Rising lengths; a sequence of more tokens than a bound is of another kind.

    Yields:
        The indices of some continuations, and a passage with these alone.
    """
    kinds = _kinds(passage, bounds)
    for kind in sorted(set(kinds)):
        numbers = tuple(number for number, found in enumerate(kinds) if found == kind)
        yield numbers, Passage(passage.context, tuple(passage.continuations[n] for n in numbers))


def _kinds(passage: Passage, bounds: Sequence[int]) -> list[int]:
    """For each continuation, how many bounds its sequence exceeds; its last token is not run."""
    lengths = [len(passage.context) + len(one) - 1 for one in passage.continuations]
    return [bisect.bisect_left(bounds, length) for length in lengths]


def _packed(
    passages: Sequence[Passage],
    row_tokens: int | None,
    batch_tokens: int,
    attention_tokens: float,
) -> tuple[Batch, ...]:
    order = sorted(range(len(passages)), key=lambda index: passages[index].context)
    sizes = _sizes([passages[index] for index in order])
    limits = _ROW_TOKENS if row_tokens is None else (row_tokens,)
    batches = min(
        (_grouped(_rows(sizes, limit), batch_tokens) for limit in limits),
        key=lambda batches: _cost(batches, attention_tokens),
    )
    packed = []
    for group in batches:
        numbers = tuple(order[index] for row in group for index in row.passages)
        starts = itertools.accumulate((len(row.passages) for row in group), initial=0)
        rows = [range(start, stop) for start, stop in itertools.pairwise(starts)]
        packed.append(_batch(tuple(passages[index] for index in numbers), numbers, rows))
    return tuple(packed)


class _Row(NamedTuple):
    passages: range  # indices of consecutive passages
    n_tokens: int  # distinct ones


def _sizes(passages: Sequence[Passage]) -> list[tuple[int, int]]:
    """For each passage: its distinct tokens, and how many of them the passage before it has too."""
    sizes = []
    before = _TokenTree()
    for passage in passages:
        tree, common = _TokenTree(), 0
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
            rows.append(_Row(range(start, index), n_tokens))
            start, n_tokens = index, 0
        n_tokens += alone if index == start else alone - common
    rows.append(_Row(range(start, len(sizes)), n_tokens))
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


def _batch(passages: tuple[Passage, ...], numbers: tuple[int, ...], rows: Sequence[range]) -> Batch:
    laid_out = [_row(passages, row) for row in rows]
    width = max(len(tokens) for tokens, _, _, _ in laid_out)
    shape = (len(rows), width)
    tokens, positions, ends = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    spans: list[tuple[int, int]] = []
    targets: list[tuple[int, int, int]] = []  # (position in B * T, token, index in `spans`)
    for row, (*columns, asked) in enumerate(laid_out):
        for table, column in zip((tokens, positions, ends), columns, strict=True):
            table[row, : len(column)] = torch.from_numpy(np.array(column))
        for span, found in asked:
            targets += [(row * width + index, token, len(spans)) for index, token in found]
            spans.append(span)
    flat, target_token, target_span = torch.from_numpy(np.array(targets).T.copy())
    gather, target_place = flat.unique(return_inverse=True)
    return Batch(
        *(tokens, positions, ends, gather, target_place, target_token, target_span),
        *(tuple(spans), passages, numbers),
    )


_Asked = list[tuple[tuple[int, int], list[tuple[int, int]]]]


def _row(passages: Sequence[Passage], row: range) -> tuple[list[int], list[int], list[int], _Asked]:
    """One row: token ids, positions, ends; and for each continuation its (index, token) pairs."""
    tree = _TokenTree()
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


class _TokenTree:
    """The sequences of one row; common prefixes are stored once.

    The layout is depth first, so a token's descendants follow it directly, and one number a token
    says which tokens may attend to it: the end of its subtree.
    """

    def __init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}  # (parent, token) -> node
        self._tokens: list[int] = []
        self._parents: list[int] = []

    def __len__(self) -> int:
        """Nodes: the tokens of the row."""
        return len(self._tokens)

    def add(self, tokens: Sequence[int], after: int = _ROOT) -> list[int]:
        """Add token ids that follow a node, or start the row; the node of each token."""
        nodes = []
        for token in tokens:
            known = self._children.get((after, token))
            if known is None:
                known = self._children[after, token] = len(self._tokens)
                self._tokens.append(token)
                self._parents.append(after)
            nodes.append(known)
            after = known
        return nodes

    def common(self, tokens: Sequence[int]) -> int:
        """Length of the longest prefix of a sequence that is in the tree."""
        after = _ROOT
        for n, token in enumerate(tokens):
            known = self._children.get((after, token))
            if known is None:
                return n
            after = known
        return len(tokens)

    def laid_out(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """Put the nodes in a row, each before its descendants.

        Returns:
            For each node its index in the row; then, by index: the token id, the position in its
            own sequence, and the end (exclusive) of its subtree.
        """
        n = len(self._tokens)
        sizes = [1] * n
        for node in reversed(range(n)):  # a parent is always older than its children
            if self._parents[node] != _ROOT:
                sizes[self._parents[node]] += sizes[node]
        places, depths = [0] * n, [0] * n
        free = {_ROOT: 0}  # node -> index of its next child
        tokens, positions, ends = [0] * n, [0] * n, [0] * n
        for node, parent in enumerate(self._parents):
            place = free[parent]
            places[node], free[node] = place, place + 1
            free[parent] = place + sizes[node]
            depths[node] = 0 if parent == _ROOT else depths[parent] + 1
            tokens[place], positions[place] = self._tokens[node], depths[node]
            ends[place] = place + sizes[node]
        return places, tokens, positions, ends
