"""What running candidates gives: per target, per candidate. Knows nothing of how it was run."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Result", "Run", "Targets"]


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
        """Put the targets of several batches behind each other."""
        apart = [part.divergence for part in parts if part.divergence is not None]
        return cls(
            torch.cat([part.logprob for part in parts]),
            torch.cat([part.greedy for part in parts]),
            torch.cat(apart) if apart else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What came of one tailoring.

    Args:
        targets: One for each batch; None if it could not be scored.
        failure: Why it could not be scored.
        layer_tokens: Tokens times layers run for it; what candidates share is divided evenly.
    """

    targets: tuple[Targets, ...] | None
    failure: str | None
    layer_tokens: float


class Run:
    """Gathers what is found for one tailoring, block by block."""

    def __init__(self, n_batches: int) -> None:
        self._n_batches = n_batches
        self._targets: dict[int, Targets] = {}
        self._failure: str | None = None
        self._layer_tokens = 0.0

    def add(
        self, numbers: Sequence[int], found: Sequence[Targets], cost: float, failure: str | None
    ) -> None:
        """File what was found for the batches of these numbers, and what it cost.

        With a failure fewer are found than were run.
        """
        self._targets.update(zip(numbers, found, strict=False))
        self._layer_tokens += cost
        self.fail(failure)

    def fail(self, failure: str | None) -> None:
        """Note why it can't be scored; the first reason stays."""
        self._failure = self._failure or failure

    def result(self) -> Result:
        """What came of it."""
        if self._failure is not None:
            return Result(None, self._failure, self._layer_tokens)
        assert len(self._targets) == self._n_batches, "a batch was not run"
        targets = tuple(self._targets[number] for number in sorted(self._targets))
        return Result(targets, None, self._layer_tokens)
