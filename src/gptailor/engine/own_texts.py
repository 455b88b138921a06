"""A whole member's own greedy texts, and which of their tokens must be right."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from gptailor.core.tailoring import Tailoring
from gptailor.engine.engine import Engine
from gptailor.engine.generate import generate
from gptailor.errors import TailoringError
from gptailor.tasks.divergence import Teacher
from gptailor.tasks.greedy_text import NEW_TOKENS, OwnText
from gptailor.tasks.task import Passage, Prompt

__all__ = ["own_texts"]

_SURE = 0.5  # nats of entropy below which a member is sure of a token
_EXACT = re.compile(r"[0-9+\-*/=<>%^()\[\]{}]")


@torch.inference_mode()
def own_texts(
    engine: Engine,
    member: str,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = NEW_TOKENS,
) -> tuple[OwnText, ...]:
    """Let a whole member write after prompts in token ids, none empty.

    Critical are the tokens with a digit, an operator or a bracket, and those that are written with
    an entropy below 0.5 nats.

    Raises:
        TailoringError: The member can't write: it runs out of memory, or has no finite logits.
    """
    whole = Tailoring.whole(member, engine.family.n_layers)
    asked = [Prompt(tuple(prompt), max_new_tokens) for prompt in prompts]
    generated = generate(engine, whole, asked)
    if generated.answers is None:
        raise TailoringError(
            f"{member} can't write: {generated.failure}; name another member, or set guard: false"
        )
    answers = [answer.tokens for answer in generated.answers]
    passages = [Passage(p.tokens, (a,)) for p, a in zip(asked, answers, strict=True)]
    batches = engine.pack(passages)
    critical: dict[int, tuple[int, ...]] = {}
    for batch, teacher in zip(batches, engine.teach(whole, batches), strict=True):
        sure = _entropy(teacher) < _SURE
        for span, (passage, _) in enumerate(batch.spans):
            here = sure[(batch.target_span == span).to(sure.device)].tolist()
            number = batch.numbers[passage]
            texts = engine.family.tokenizer.batch_decode([[token] for token in answers[number]])
            critical[number] = tuple(
                index
                for index, (text, is_sure) in enumerate(zip(texts, here, strict=True))
                if is_sure or _EXACT.search(text)
            )
    return tuple(
        OwnText(prompt.tokens, answer, critical[number])
        for number, (prompt, answer) in enumerate(zip(asked, answers, strict=True))
    )


def _entropy(teacher: Teacher) -> Tensor:
    """Entropy of each position in nats, (P,), all unlikely tokens counted as one."""
    kept = -(teacher.logprobs.exp() * teacher.logprobs).sum(-1)
    return kept - teacher.rest.exp() * teacher.rest
