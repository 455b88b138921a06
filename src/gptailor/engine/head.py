"""Logits of gathered positions, and what is read off them: log-probabilities, divergences."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptailor.core.tailoring import Tailoring
from gptailor.engine.batches import Batch
from gptailor.engine.skeleton import Skeleton
from gptailor.tasks.divergence import Teacher, compact, divergence

__all__ = ["Targets", "score", "teach"]

_LOGIT_BYTES = 256 * 2**20  # float32 logits made at a time
_CACHED_ROWS = 32  # rows of probabilities that fit a CPU's cache


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What was found at the M targets of one batch, in the batch's order."""

    logprob: Tensor  # of the target token in nats, float32 (M,)
    greedy: Tensor  # whether the target is the most likely token, bool (M,)
    divergence: Tensor | None = None  # Kullback-Leibler, from the teacher in nats, float32 (M,)

    @classmethod
    def joined(cls, parts: "Sequence[Targets]") -> "Targets":
        """Concatenate the targets of several batches."""
        divergences = [part.divergence for part in parts if part.divergence is not None]
        return cls(
            torch.cat([part.logprob for part in parts]),
            torch.cat([part.greedy for part in parts]),
            torch.cat(divergences) if divergences else None,
        )


def score(
    skeleton: Skeleton, tailoring: Tailoring, hidden: Tensor, batch: Batch, teacher: Teacher | None
) -> Targets:
    """Score the targets of a batch, from the hidden states at ``batch.gather``, (G, H)."""
    device = hidden.device
    rows_of, tokens = batch.target_place.to(device), batch.target_token.to(device)  # (M,)
    logprob = torch.empty(len(rows_of), dtype=torch.float32, device=device)
    greedy = torch.empty(len(rows_of), dtype=torch.bool, device=device)
    apart = torch.empty_like(logprob) if teacher is not None else None
    for low, logits in _logits(skeleton, tailoring, hidden):
        n_rows = _CACHED_ROWS if device.type == "cpu" else len(logits)
        for first in range(0, len(logits), n_rows):
            logprobs = logits[first : first + n_rows].log_softmax(dim=-1, dtype=torch.float32)
            rows = rows_of - (low + first)
            here = ((rows >= 0) & (rows < len(logprobs))).nonzero()[:, 0]
            rows, wanted = rows[here], tokens[here]
            logprob[here] = logprobs[rows, wanted]
            greedy[here] = _greedy(logprobs, rows, wanted)
            if apart is not None and teacher is not None:
                apart[here] = divergence(teacher[here], logprobs[rows])
    return Targets(logprob.cpu(), greedy.cpu(), None if apart is None else apart.cpu())


def teach(skeleton: Skeleton, tailoring: Tailoring, hidden: Tensor) -> Teacher:
    """What a model predicts at positions whose hidden states are (M, H), in compact form."""
    return Teacher.joined([compact(logits) for _, logits in _logits(skeleton, tailoring, hidden)])


def _logits(
    skeleton: Skeleton, tailoring: Tailoring, hidden: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Logits (m, V) of parts of (M, H) within a limit in bytes, and where each part begins.

    Parts are of about equal size: products of few rows are slow.
    """
    most = max(1, _LOGIT_BYTES // (4 * skeleton.vocab_size))
    n = len(hidden)
    step = max(1, math.ceil(n / math.ceil(n / most))) if n else 1
    for low in range(0, n, step):
        yield low, skeleton.logits(tailoring, hidden[low : low + step])


def _greedy(logprobs: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """Whether a token is the likeliest of its row, the first of several: bool (M,)."""
    greedy = logprobs.amax(dim=-1)[rows] == logprobs[rows, wanted]
    hits = greedy.nonzero()[:, 0]  # few; only among them equals are looked for
    greedy[hits] = logprobs[rows[hits]].argmax(dim=-1) == wanted[hits]
    return greedy
