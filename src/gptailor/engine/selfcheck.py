"""Is the engine exact for this architecture? Asked of the weights at hand, before a search.

The base, whole, is run on two packed passages with branches and, as the slow and obvious truth, by
its own Hugging Face forward on one plain sequence after the other. Knows nothing of candidates.
"""

import numpy as np
import torch
from torch import Tensor

from gptailor.engine.batches import pack
from gptailor.engine.engine import Engine
from gptailor.errors import FamilyError
from gptailor.family.skeleton import model_around
from gptailor.tailoring import BASE, Tailoring
from gptailor.tasks.task import Passage

__all__ = ["plain_logprobs", "refuse_inexact"]

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.35, torch.float16: 0.1}  # nats a token


def refuse_inexact(engine: Engine) -> None:
    """Hold the engine against the family's own forward.

    Raises:
        FamilyError: They differ; the architecture needs something that packing does not give.
    """
    family = engine.family
    rng = np.random.default_rng(0)
    vocabulary = min(family.config.vocab_size, len(family.tokenizer))
    passages = [
        Passage(_tokens(rng, vocabulary, 9), tuple(_tokens(rng, vocabulary, n) for n in lengths))
        for lengths in ((3, 1, 4), (5, 2))
    ]
    whole = Tailoring.whole(BASE, family.n_layers)
    batches = pack(passages)
    result = engine.run([whole], batches)[0]
    name = type(family.config).__name__.removesuffix("Config")
    if result.targets is None:
        raise FamilyError(f"the base can't be run: {result.failure}")
    packed = torch.cat([targets.logprob for targets in result.targets])
    ordered = [batch.passages for batch in batches]
    model = model_around(family.config, family.states[BASE], family.dtype).to(engine.device)
    plain = plain_logprobs(model, sum(ordered, ()))
    apart = float((packed - plain).abs().max())
    if not apart <= _TOLERANCE[family.dtype]:
        raise FamilyError(
            f"{name}: packed scores differ from the model's own by {apart:.3g} nats a token; "
            "this architecture is not supported"
        )


@torch.inference_mode()
def plain_logprobs(model: torch.nn.Module, passages: tuple[Passage, ...]) -> Tensor:
    """Log-probability of every continuation token, one forward a continuation: float32 (M,)."""
    found = []
    for passage in passages:
        for continuation in passage.continuations:
            tokens = torch.tensor([passage.context + continuation])
            device = next(model.parameters()).device
            logits = model(input_ids=tokens[:, :-1].to(device), use_cache=False).logits[0].float()
            n = len(continuation)
            logprobs = logits[-n:].log_softmax(dim=-1).cpu()
            found.append(logprobs[torch.arange(n), torch.tensor(continuation)])
    return torch.cat(found)


def _tokens(rng: np.random.Generator, vocabulary: int, n: int) -> tuple[int, ...]:
    return tuple(int(token) for token in rng.integers(0, vocabulary, n))
