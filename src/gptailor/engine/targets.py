"""Results of running candidates: per batch, what was found at its targets."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Result", "Targets"]


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What was found at the targets of one batch, in the batch's order.

    Args:
        logprob: Log-probability of the target token in nats, float32 (M,).
        greedy: Whether the target is the most likely token, bool (M,).
        divergence: Kullback-Leibler divergence from the teacher in nats, float32 (M,); None
            without a teacher.
    """

    logprob: Tensor
    greedy: Tensor
    divergence: Tensor | None = None

    @classmethod
    def joined(cls, parts: "Sequence[Targets]") -> "Targets":
        """Concatenate the targets of several batches."""
        divergences = [part.divergence for part in parts if part.divergence is not None]
        return cls(
            torch.cat([part.logprob for part in parts]),
            torch.cat([part.greedy for part in parts]),
            torch.cat(divergences) if divergences else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """The result of one tailoring on some batches.

    Args:
        targets: One for each batch; None if the tailoring could not be scored.
        failure: Why it could not be scored.
        layer_tokens: Tokens times layers run for it; layers that candidates share are divided
            evenly among them.
    """

    targets: tuple[Targets, ...] | None
    failure: str | None
    layer_tokens: float

    @classmethod
    def joined(cls, parts: "Sequence[Result]") -> "Result":
        """Join results on consecutive batches; of several failures the first is kept."""
        layer_tokens = sum(part.layer_tokens for part in parts)
        failure = next((part.failure for part in parts if part.failure is not None), None)
        if failure is not None:
            return cls(None, failure, layer_tokens)
        targets = tuple(itertools.chain.from_iterable(part.targets or () for part in parts))
        return cls(targets, None, layer_tokens)

    def as_one_batch(self) -> "Result":
        """The same with all targets in one, as of one batch."""
        if self.targets is None:
            return self
        return Result((Targets.joined(self.targets),), None, self.layer_tokens)
