"""Passages become packed batches: several questions in a row, their choices side by side.

A row holds passages one after the other; a passage is its context and, after it, every
continuation, each seeing the context and itself alone, its positions going on from the context's
end. So the choices of one question share one run of their context, and nothing is padded but the
ends of rows. The last token of a continuation is only ever predicted, so it is not an input.
Knows nothing of models; depends on the passages alone, never on a candidate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptailor.tasks.task import Passage

__all__ = ["Batch", "pack"]

BATCH_TOKENS = 2048
_ROW_TOKENS = (64, 96, 128, 192, 256, 384, 512)
# A token in a row of so many tokens costs twice what it costs outside attention: on a 2-core CPU a
# quarter of a layer's time went into attention over rows of 256, at hidden size 576.
_ATTENTION_TOKENS = 768


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Packed rows, and where in them which token is to be predicted.

    Args:
        tokens: Input ids, int64 (B, T).
        positions: Each token's position in its own sequence, int64 (B, T).
        owner: Which passage of its row a token belongs to, int32 (B, T); -1 is padding.
        branch: 0 in a context, 1.. in a continuation, int32 (B, T).
        gather: Places whose hidden state predicts something, int64 (G,) into B * T.
        target_place: For each target, its place in `gather`, int64 (M,).
        target_token: For each target, the token to be predicted, int64 (M,).
        target_span: For each target, the continuation it is part of, int64 (M,).
        spans: For each continuation, (index of its passage in `passages`, its index there).
        passages: What was packed.
        numbers: For each passage, its number in the list given to `pack`.
    """

    tokens: Tensor
    positions: Tensor
    owner: Tensor
    branch: Tensor
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

    def split(self) -> tuple["Batch", ...]:
        """Two batches of half the passages each; itself alone if there is but one passage."""
        half = len(self.passages) // 2
        if half == 0:
            return (self,)
        ends = (slice(None, half), slice(half, None))
        width = self.tokens.shape[1]
        return tuple(
            _batch(self.passages[end], self.numbers[end], _rows(self.passages[end], width))
            for end in ends
        )

    def visible(self) -> Tensor:
        """Which token may see which, were it not for positions: bool (B, T, T)."""
        same = (self.owner[:, :, None] == self.owner[:, None, :]) & (self.owner[:, None, :] >= 0)
        context = self.branch[:, None, :] == 0
        return same & (context | (self.branch[:, :, None] == self.branch[:, None, :]))


def pack(
    passages: Sequence[Passage],
    *,
    row_tokens: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> tuple[Batch, ...]:
    """Pack passages into batches of about equal work.

    Long passages first, each into the first row with room (first fit, decreasing); rows of like
    length share a batch.

    Args:
        passages: What is to be scored; every one is in exactly one batch.
        row_tokens: Room in a row, the cheapest of a few if None; a longer passage has a row of its
            own.
        batch_tokens: Room in a batch, padding counted; a longer row has a batch of its own.
    """
    sizes = _ROW_TOKENS if row_tokens is None else (row_tokens,)
    batches = min(
        (_grouped(passages, size, batch_tokens) for size in sizes),
        key=lambda batches: _cost(passages, batches),
    )
    packed = []
    for group in batches:
        numbers = tuple(index for row in group for index in row)
        local = {number: place for place, number in enumerate(numbers)}
        rows_here = [[local[index] for index in row] for row in group]
        packed.append(_batch(tuple(passages[index] for index in numbers), numbers, rows_here))
    return tuple(packed)


def _length(passage: Passage) -> int:
    return len(passage.context) + sum(len(tokens) - 1 for tokens in passage.continuations)


def _grouped(
    passages: Sequence[Passage], row_tokens: int, batch_tokens: int
) -> list[list[list[int]]]:
    """Batches of rows of passages' numbers, long rows first."""
    rows = _rows(passages, row_tokens)
    rows.sort(key=lambda row: -_width(passages, row))
    batches: list[list[list[int]]] = []
    width = 0
    for row in rows:
        if not batches or width * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            width = _width(passages, row)
        batches[-1].append(row)
    return batches


def _cost(passages: Sequence[Passage], batches: Sequence[Sequence[Sequence[int]]]) -> float:
    """Work of a layer: long rows waste little at their ends, short ones little on attention."""
    cost = 0.0
    for rows in batches:
        width = _width(passages, rows[0])
        cost += len(rows) * width * (1 + width / _ATTENTION_TOKENS)
    return cost


def _width(passages: Sequence[Passage], row: Sequence[int]) -> int:
    return sum(_length(passages[index]) for index in row)


def _rows(passages: Sequence[Passage], row_tokens: int) -> list[list[int]]:
    """First fit, decreasing; ties keep the order given."""
    order = sorted(range(len(passages)), key=lambda index: -_length(passages[index]))
    rows: list[list[int]] = []
    room: list[int] = []
    for index in order:
        length = _length(passages[index])
        place = next((row for row, left in enumerate(room) if left >= length), None)
        if place is None:
            rows.append([index])
            room.append(max(row_tokens, length) - length)
        else:
            rows[place].append(index)
            room[place] -= length
    return rows


def _batch(
    passages: tuple[Passage, ...], numbers: tuple[int, ...], rows: Sequence[Sequence[int]]
) -> Batch:
    width = max(sum(_length(passages[index]) for index in row) for row in rows)
    shape = (len(rows), width)
    tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    owner, branch = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
    starts: dict[int, int] = {}
    for row, members in enumerate(rows):
        start = 0
        for order, index in enumerate(members):
            end = start + _length(passages[index])
            place = (slice(row, row + 1), slice(start, end))
            tokens[place], positions[place], branch[place] = _flatten(passages[index])
            owner[place] = order
            starts[index] = row * width + start
            start = end
    spans, targets = _targets(passages, starts)
    flat, target_token, target_span = (
        np.array(column, np.int64) for column in zip(*targets, strict=True)
    )
    gather, target_place = np.unique(flat, return_inverse=True)
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        owner=torch.from_numpy(owner),
        branch=torch.from_numpy(branch),
        gather=torch.from_numpy(gather),
        target_place=torch.from_numpy(target_place),
        target_token=torch.from_numpy(target_token),
        target_span=torch.from_numpy(target_span),
        spans=spans,
        passages=passages,
        numbers=numbers,
    )


def _targets(
    passages: Sequence[Passage], starts: Mapping[int, int]
) -> tuple[tuple[tuple[int, int], ...], list[tuple[int, int, int]]]:
    """Every continuation, and every target as (flat place, token, continuation), by passage."""
    spans: list[tuple[int, int]] = []
    targets: list[tuple[int, int, int]] = []
    for index, passage in enumerate(passages):
        cursor = starts[index] + len(passage.context)
        for number, continuation in enumerate(passage.continuations):
            rest = len(continuation) - 1
            places = [starts[index] + len(passage.context) - 1, *range(cursor, cursor + rest)]
            targets += [(p, t, len(spans)) for p, t in zip(places, continuation, strict=True)]
            spans.append((index, number))
            cursor += rest
    return tuple(spans), targets


def _flatten(passage: Passage) -> tuple[list[int], list[int], list[int]]:
    """A passage's input ids, positions and branches, in a row."""
    n = len(passage.context)
    ids, where, part = list(passage.context), list(range(n)), [0] * n
    for number, continuation in enumerate(passage.continuations, start=1):
        ids += continuation[:-1]
        where += range(n, n + len(continuation) - 1)
        part += [number] * (len(continuation) - 1)
    return ids, where, part
