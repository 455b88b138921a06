"""Check before a search that the engine scores like transformers, on the actual weights.

Whole, and with one layer cut: that finds architectures whose layers depend on their index or on the
number of layers.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.engine.batches import pack, pieces
from gptailor.engine.engine import Engine
from gptailor.errors import FamilyError, TailoringError, is_out_of_memory
from gptailor.family import Family, tailored_config
from gptailor.family.empty_model import model_around, offloaded
from gptailor.family.library_calls import one_line
from gptailor.tasks.task import Passage

__all__ = ["plain_logprobs", "refuse_inexact"]

# families that were found exact, and where
_EXACT_ON: WeakKeyDictionary[Family, set[torch.device]] = WeakKeyDictionary()

# Nats a token: the maximum in float32; the mean in 16 bits, where rounding alone moves some tokens
# by half a nat (SmolLM2-135M: 0.03 to 0.12 on average, whole or with a middle layer cut).
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.1}


def refuse_inexact(engine: Engine) -> None:
    """Compare the engine with the family's own forward, once for a family on a device.

    Raises:
        FamilyError: They differ: the engine does not support the architecture.
    """
    family = engine.family
    if engine.device in _EXACT_ON.get(family, ()):
        return
    rng = np.random.default_rng(0)
    vocabulary = int(family.config.vocab_size)
    if family.own_tokenizer is not None:
        vocabulary = min(vocabulary, len(family.own_tokenizer))
    drawn = [
        [tuple(rng.integers(0, vocabulary, n).tolist()) for n in (9, *lengths)]
        for lengths in ((3, 1, 4), (5, 2))
    ]
    passages = [Passage(context, tuple(continuations)) for context, *continuations in drawn]
    name = type(family.config).__name__.removesuffix("Config")
    model = model_around(family.config, family.states[BASE], family.dtype)
    apart = _apart(engine, Tailoring.whole(BASE, family.n_layers), model, passages)
    if not apart <= _TOLERANCE[family.dtype]:
        raise FamilyError(
            f"{name}: packed scores differ from the model's own by {apart:.3g} nats a token; "
            "this architecture is not supported"
        )
    shorter = _one_layer_shorter(family)
    apart = 0.0 if shorter is None else _apart(engine, *shorter, passages[:1])
    if not apart <= _TOLERANCE[family.dtype]:
        raise FamilyError(
            f"{name}: with a layer cut, the model that transformers makes differs by {apart:.3g} "
            "nats a token from the layers that are left; a layer computes with its number or with "
            "how many there are, so this architecture is not supported"
        )
    _EXACT_ON.setdefault(family, set()).add(engine.device)


def _apart(
    engine: Engine, tailoring: Tailoring, model: PreTrainedModel, passages: Sequence[Passage]
) -> float:
    """Difference between the engine and the model's own forward, in nats a token."""
    alone = [piece for one in passages for _, piece in pieces(one, engine.rotary_bounds)]
    batches = pack(alone, bounds=engine.rotary_bounds)
    ordered = sum((batch.passages for batch in batches), ())
    try:
        plain = plain_logprobs(_placed(model, engine), ordered, engine.device)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise FamilyError(
            f"{engine.family.paths[BASE]}: the model that transformers makes of it can't be run "
            f"({one_line(error)}); mend its config.json"
        ) from error
    result = engine.run([tailoring], batches)[0]
    if result.targets is None:
        raise FamilyError(f"the base can't be run: {result.failure}")
    packed = torch.cat([targets.logprob for targets in result.targets])
    apart = (packed - plain).abs()
    return float(apart.max() if engine.family.dtype == torch.float32 else apart.mean())


def _placed(model: PreTrainedModel, engine: Engine) -> PreTrainedModel:
    """The model on the engine's device; where members are limited there, a module at a time."""
    if engine.member_bytes is None:
        return model.to(engine.device)
    return offloaded(model, engine.device)


def _one_layer_shorter(family: Family) -> tuple[Tailoring, PreTrainedModel] | None:
    """The base without one layer, as a tailoring and as a smaller model; None if none can be cut.

    In float32 the first layer that can be cut, which shifts all others; in 16 bits one from the
    middle, because without an early layer rounding errors hide every other difference.
    """
    n_layers = family.n_layers
    first = 0 if family.dtype == torch.float32 else n_layers // 2
    for cut in (*range(first, n_layers), *range(first)) if n_layers > 1 else ():
        kept = [layer for layer in range(n_layers) if layer != cut]
        try:
            config = tailored_config(family.config, kept)
        except TailoringError:
            continue
        layers, state = family.layout.layers, family.states[BASE]
        held = {name: t for name, t in state.items() if family.layout.layer_of(name) is None}
        for index, layer in enumerate(kept):
            named = family.layer(Source(BASE, layer)).items()
            held |= {f"{layers}.{index}.{name}": tensor for name, tensor in named}
        tailoring = Tailoring(tuple(LayerSpec((Source(BASE, layer),)) for layer in kept))
        return tailoring, model_around(config, held, family.dtype)
    return None


@torch.inference_mode()
def plain_logprobs(
    model: torch.nn.Module, passages: tuple[Passage, ...], device: torch.device | None = None
) -> Tensor:
    """Log-probability of every continuation token, one forward a continuation: float32 (M,).

    `device` is where the model computes, if not where its weights are.
    """
    found = []
    device = device or next(model.parameters()).device
    for passage in passages:
        for continuation in passage.continuations:
            tokens = torch.tensor([passage.context + continuation])
            logits = model(input_ids=tokens[:, :-1].to(device), use_cache=False).logits[0].float()
            logprobs = logits[-len(continuation) :].log_softmax(dim=-1).cpu()
            found.append(logprobs[range(len(continuation)), continuation])
    return torch.cat(found)
