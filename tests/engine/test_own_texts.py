"""A member's own texts, and candidates that read them, against transformers' own forward."""

import pytest
import torch
from torch import Tensor

from gptailor.core.specs import GENERATION
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Engine, Evaluator
from gptailor.engine import own_texts as module
from gptailor.engine.own_texts import own_texts
from gptailor.family import Family
from gptailor.family.empty_model import model_around
from gptailor.tasks.divergence import compact, divergence
from gptailor.tasks.greedy_text import OwnText, own_text_task

PROMPTS = [(5, 6, 7), (9,), (40, 41, 42, 43, 44, 45), *((n, n + 1) for n in range(60, 66))]


def logprobs(family: Family, member: str, text: OwnText) -> Tensor:
    """Of the next token at every position of the answer, (T, V), by the whole model."""
    model = model_around(family.config, family.states[member], family.dtype)
    with torch.inference_mode():
        logits = model(torch.tensor([text.prompt + text.answer])).logits[0]
    return logits[len(text.prompt) - 1 : -1].log_softmax(-1)


def test_own_texts_are_the_likeliest_tokens_and_critical_ones_are_exact_or_sure(
    pico: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SURE", 0.7)  # few are surer of random ones
    texts = own_texts(Engine(pico), "math", PROMPTS, max_new_tokens=12)
    assert [text.prompt for text in texts] == PROMPTS
    n_critical = 0
    for text in texts:
        predicted = logprobs(pico, "math", text)
        assert tuple(predicted.argmax(-1).tolist()) == text.answer
        likeliest = predicted.exp().topk(64).values
        shares = torch.cat([likeliest, 1 - likeliest.sum(-1, keepdim=True)], dim=-1)
        entropy = -(shares * shares.log()).sum(-1)  # all the others are one outcome
        words = [pico.tokenizer.decode([token]) for token in text.answer]
        exact = [any(c in "0123456789+-*/=<>%^()[]{}" for c in word) for word in words]
        expected = [e or h < 0.7 for e, h in zip(exact, entropy.tolist(), strict=True)]
        assert text.critical == tuple(n for n, is_critical in enumerate(expected) if is_critical)
        n_critical += len(text.critical)
    assert 0 < n_critical < sum(len(text.answer) for text in texts)


def test_a_candidate_reads_own_texts_as_its_whole_model_does(pico: Family) -> None:
    engine = Engine(pico)
    texts = own_texts(engine, "math", PROMPTS, max_new_tokens=12)
    evaluator = Evaluator(engine, {"search": [own_text_task(texts)]}, teachers={GENERATION: "math"})
    jobs = [Job(Tailoring.whole(name, pico.n_layers), len(PROMPTS)) for name in (BASE, "math")]
    ours, own = (done.scores for done in evaluator.evaluate(jobs))
    assert ours is not None
    assert own is not None
    assert {metric: own.value(GENERATION, metric) for metric in own.tasks[GENERATION]} == {
        "divergence": 0.0,
        "critical_divergence": 0.0,
        "flip_rate": 0.0,
        "critical_flip_rate": 0.0,
    }
    expected: dict[str, list[Tensor]] = {}
    for text in texts:
        found = logprobs(pico, BASE, text)
        critical = torch.tensor(text.critical, dtype=torch.int64)
        nats = divergence(compact(logprobs(pico, "math", text)), found)
        flips = (found.argmax(-1) != torch.tensor(text.answer)).double()
        for name, values in (("divergence", nats), ("flip_rate", flips)):
            expected.setdefault(name, []).append(values)
            expected.setdefault(f"critical_{name}", []).append(values[critical])
    for name, values in expected.items():
        wanted = torch.cat(values).mean().item()
        assert wanted > 0
        assert ours.value(GENERATION, name) == pytest.approx(wanted, abs=2e-6)
