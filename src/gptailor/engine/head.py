"""Logits of gathered positions, and what is read off them: log-probabilities, divergences."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptailor.core.tailoring import Tailoring
from gptailor.engine.batches import Batch
from gptailor.engine.device import moved
from gptailor.engine.skeleton import Skeleton
from gptailor.tasks.divergence import Teacher, compact, divergence

__all__ = ["Targets", "score", "slopes", "teach"]

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

    def split(self, sizes: Sequence[int]) -> "list[Targets]":
        """Undo `joined`: some targets each."""
        parts = [self.logprob.split_with_sizes(sizes), self.greedy.split_with_sizes(sizes)]
        if self.divergence is not None:
            parts.append(self.divergence.split_with_sizes(sizes))
        return [Targets(*each) for each in zip(*parts, strict=True)]

    def on_cpu(self) -> "Targets":
        """The same on the CPU; it waits for the device."""
        apart = None if self.divergence is None else self.divergence.cpu()
        return Targets(self.logprob.cpu(), self.greedy.cpu(), apart)


def score(
    skeleton: Skeleton, tailoring: Tailoring, hidden: Tensor, batch: Batch, teacher: Teacher | None
) -> Targets:
    """Score the targets of a batch, from the hidden states at ``batch.gather``, (G, H).

    The result is on the device of the states, and may still be in the making.
    """
    device, n_targets = hidden.device, len(batch.target_token)
    logprob = torch.empty(n_targets, dtype=torch.float32, device=device)
    greedy = torch.empty(n_targets, dtype=torch.bool, device=device)
    apart = torch.empty_like(logprob) if teacher is not None else None
    for low, logits in _logits(skeleton, tailoring, hidden):
        n_rows = _CACHED_ROWS if device.type == "cpu" else len(logits)
        for first in range(0, len(logits), n_rows):
            logprobs = logits[first : first + n_rows].log_softmax(dim=-1, dtype=torch.float32)
            rows = batch.target_place - (low + first)  # on the CPU: `nonzero` waits for a device
            found = ((rows >= 0) & (rows < len(logprobs))).nonzero()[:, 0]
            here, rows = moved(found, device), moved(rows[found], device)
            wanted = moved(batch.target_token[found], device)
            logprob[here] = logprobs[rows, wanted]
            greedy[here] = _greedy(logprobs, rows, wanted)
            if apart is not None and teacher is not None:
                apart[here] = divergence(teacher[here], logprobs[rows])
    return Targets(logprob, greedy, apart)


def teach(skeleton: Skeleton, tailoring: Tailoring, hidden: Tensor) -> Teacher:
    """What a model predicts at positions whose hidden states are (M, H), in compact form."""
    return Teacher.joined([compact(logits) for _, logits in _logits(skeleton, tailoring, hidden)])


def slopes(
    skeleton: Skeleton, tailoring: Tailoring, hidden: Tensor, batch: Batch, by_target: Tensor
) -> Tensor:
    """The gradient of a loss by the hidden states at ``batch.gather``, (G, H) in their dtype.

    `by_target` is the loss's derivative by the log-probability of each target, float32 (M,).
    """
    states = hidden.detach().clone().requires_grad_()
    total = torch.zeros_like(states)
    place, token = (
        moved(batch.target_place, hidden.device),
        moved(batch.target_token, hidden.device),
    )
    weights = moved(by_target, hidden.device)
    with torch.enable_grad():
        for low, logits in _logits(skeleton, tailoring, states):
            here = (place >= low) & (place < low + len(logits))
            logprobs = logits.float().log_softmax(dim=-1)[place[here] - low, token[here]]
            total += torch.autograd.grad((logprobs * weights[here]).sum(), states)[0]
    return total


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
    if logprobs.device.type != "cpu":
        return logprobs.argmax(dim=-1)[rows] == wanted
    greedy = logprobs.amax(dim=-1)[rows] == logprobs[rows, wanted]
    hits = greedy.nonzero()[:, 0]  # few; only among them equals are looked for
    greedy[hits] = logprobs[rows[hits]].argmax(dim=-1) == wanted[hits]
    return greedy
