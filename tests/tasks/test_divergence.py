"""The compact divergence against the full sum over the vocabulary."""

import pytest
import torch

from gptailor.tasks.divergence import compact, divergence


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(7, 200, generator=torch.Generator().manual_seed(seed)) * scale


def full(teacher: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    p, q = teacher.double().log_softmax(-1), candidate.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)


def test_with_the_whole_vocabulary_it_is_the_full_divergence() -> None:
    found = divergence(compact(logits(0), k=500), logits(1))
    torch.testing.assert_close(found.double(), full(logits(0), logits(1)), rtol=1e-4, atol=1e-5)


def test_the_rest_counts_as_one_outcome() -> None:
    p = torch.tensor([[0.5, 0.3, 0.1, 0.1]])
    q = torch.tensor([[0.25, 0.25, 0.4, 0.1]])
    by_hand = 0.5 * torch.tensor(2.0).log() + 0.3 * torch.tensor(1.2).log()
    by_hand = by_hand + 0.2 * torch.tensor(0.4).log()
    found = divergence(compact(p.log(), k=2), q.log())
    torch.testing.assert_close(found, by_hand[None], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [1, 8, 64])
def test_leaving_tokens_out_never_raises_it(k: int) -> None:
    found = divergence(compact(logits(0), k=k), logits(1))
    assert (found.double() <= full(logits(0), logits(1)) + 1e-5).all()
    assert (found >= 0).all()


def test_a_model_does_not_diverge_from_itself() -> None:
    torch.testing.assert_close(divergence(compact(logits(2)), logits(2)), torch.zeros(7))


def test_certain_teachers_and_candidates_stay_finite() -> None:
    sure = torch.zeros(1, 200)
    sure[0, 3] = 1e4
    other = torch.zeros(1, 200)
    other[0, 5] = 1e4
    assert divergence(compact(sure), sure).item() == pytest.approx(0.0, abs=1e-6)
    assert torch.isfinite(divergence(compact(sure), other)).all()
    assert torch.isfinite(divergence(compact(sure.bfloat16()), other.bfloat16())).all()


def test_the_compact_form_is_small_and_can_be_cut() -> None:
    teacher = compact(logits(0), k=8)
    assert teacher.logprobs.shape == (7, 8)
    assert teacher.tokens.dtype == torch.int32
    assert teacher.nbytes == 7 * (8 * 4 + 8 * 4 + 4)
    some = torch.tensor([4, 1])
    part = divergence(teacher[some], logits(1)[some])
    torch.testing.assert_close(part, divergence(teacher, logits(1))[some])
