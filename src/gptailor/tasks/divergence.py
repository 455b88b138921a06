"""Divergence: how far a candidate's next-token distribution is from a member's.

The member's logits are kept in a compact form: the log-probabilities of its k likeliest tokens, and
the log of all the rest's mass as one bucket. What that leaves out only makes the divergence smaller
(merging outcomes never raises it). float32 throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Teacher", "compact", "divergence"]

_FLOOR = -104.0  # ln of float32's smallest subnormal: an empty rest has no mass, not minus infinity


@dataclass(frozen=True, slots=True)
class Teacher:
    """The compact form of P positions."""

    logprobs: Tensor  # (P, k) nats, float32, of the likeliest tokens
    tokens: Tensor  # (P, k) their ids, int32
    rest: Tensor  # (P,) nats, float32: log of the mass of all other tokens

    def __getitem__(self, positions: Tensor | slice) -> "Teacher":
        """The compact form of some of the positions."""
        return Teacher(self.logprobs[positions], self.tokens[positions], self.rest[positions])

    @classmethod
    def joined(cls, pieces: "Sequence[Teacher]") -> "Teacher":
        """The compact form of the positions of all pieces, in order."""
        triples = [(piece.logprobs, piece.tokens, piece.rest) for piece in pieces]
        return cls(*map(torch.cat, zip(*triples, strict=True)))

    @property
    def nbytes(self) -> int:
        """Bytes of the three tensors."""
        return self.logprobs.nbytes + self.tokens.nbytes + self.rest.nbytes


def compact(logits: Tensor, k: int = 64) -> Teacher:
    """Keep the k likeliest tokens (or all) of each row of (P, V) logits, and the other mass."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)  # (P, V)
    top, tokens = logprobs.topk(min(k, logprobs.shape[-1]), dim=-1)  # (P, k)
    left = logprobs.scatter(-1, tokens, float("-inf"))
    return Teacher(top, tokens.to(torch.int32), _rest(left))


def divergence(teacher: Teacher, logits: Tensor) -> Tensor:
    """Kullback-Leibler divergence KL(teacher || candidate), per position.

    ``sum_i p_i (ln p_i - ln q_i)`` over the k kept tokens and the rest as one more outcome; logits
    are (P, V), the result (P,) nats, float32, never below 0.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)  # (P, V)
    tokens = teacher.tokens.long()
    ours = logprobs.gather(-1, tokens)  # (P, k)
    rest = _rest(logprobs.scatter(-1, tokens, float("-inf")))
    kept = (teacher.logprobs.exp() * (teacher.logprobs - ours)).sum(-1)
    return (kept + teacher.rest.exp() * (teacher.rest - rest)).clamp_min(0.0)


def _rest(left: Tensor) -> Tensor:
    return left.logsumexp(-1).clamp_min(_FLOOR)
