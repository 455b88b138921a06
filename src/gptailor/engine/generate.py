"""Greedy generation of tailorings, by transformers' own model class, cache and `generate`.

A model of the tailoring's layers is made around the tensors that the engine holds; no weight is
copied. It is what an exported checkpoint is, so its tokens are those of `generate` on that.
"""

import bisect
import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from gptailor.core.tailoring import Tailoring
from gptailor.engine.engine import Engine
from gptailor.engine.walk import Work
from gptailor.errors import TailoringError, is_out_of_memory
from gptailor.family import layers_path, tailored_config
from gptailor.family.architecture import max_positions
from gptailor.family.empty_model import skeleton_of
from gptailor.family.library_calls import quiet
from gptailor.tasks.task import Prompt

__all__ = ["Answer", "Generated", "continuations", "count_generation", "generate", "model_of"]

logger = logging.getLogger(__name__)

_BATCH_TOKENS = 8192  # of prompts and answers, padding counted: bounds the key-value cache
_BATCH_PROMPTS = 64
_LOOKBACK = 2  # tokens more than a stop string's own, which may be written in other tokens


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model wrote after one prompt."""

    tokens: tuple[int, ...]  # up to the end-of-sequence token or the end of a stop string, included
    text: str  # without special tokens


@dataclass(frozen=True, slots=True)
class Generated:
    """The answers of one tailoring to some prompts."""

    answers: tuple[Answer, ...] | None  # in the order of the prompts; None if it failed
    failure: str | None
    layer_tokens: int  # tokens times layers run, padding counted


@torch.inference_mode()  # in which merged layers are made
def model_of(engine: Engine, tailoring: Tailoring) -> PreTrainedModel:
    """Make the stock model of a tailoring around the engine's tensors, on its device.

    It holds all of its layers at once, also where `member_bytes` or `cache_bytes` are less.
    """
    family = engine.family
    config = tailored_config(family.config, [spec.position for spec in tailoring.layers])
    model = skeleton_of(config, family.dtype)
    model.load_state_dict(engine.skeleton.outer_state(tailoring), strict=False, assign=True)
    layers: Any = model.get_submodule(layers_path(model))
    for layer, spec in zip(layers, tailoring.layers, strict=True):
        layer.load_state_dict(engine.layers.get(spec).state_dict(), strict=True, assign=True)
    model.tie_weights()
    if family.generation_config is not None:  # an export carries it
        model.generation_config = family.generation_config
    return model.to(engine.device)  # buffers; the weights are there


def generate(engine: Engine, tailoring: Tailoring, prompts: Sequence[Prompt]) -> Generated:
    """Let a tailoring answer prompts greedily, in batches that depend on the prompts alone.

    The tokens are those of transformers' `generate` with ``do_sample=False`` on the exported model,
    one prompt at a time; in 16 bits a batch rounds otherwise, which may decide a tie.
    """
    n_layers, layer_tokens = len(tailoring.layers), 0
    answers: dict[int, Answer] = {}
    with torch.inference_mode(), quiet():
        model = model_of(engine, tailoring)
        pending = list(reversed(_batches(engine, prompts)))
        while pending:
            batch = pending.pop()
            try:
                rows, n_run = _run(engine, model, [prompts[index] for index in batch])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    n_tokens = len(prompts[batch[0]].tokens)
                    failure = f"out of memory while generating after a prompt of {n_tokens} tokens"
                    return Generated(None, failure, layer_tokens)
                logger.warning("out of memory on %d prompts; trying fewer", len(batch))
                half = len(batch) // 2
                pending += [batch[half:], batch[:half]]
                continue
            layer_tokens += n_run * n_layers
            if rows is None:
                failure = "non-finite logits while generating"
                return Generated(None, failure, layer_tokens)
            answers |= dict(zip(batch, rows, strict=True))
    ordered = tuple(answers[index] for index in range(len(prompts)))
    return Generated(ordered, None, layer_tokens)


def continuations(
    engine: Engine,
    tailoring: Tailoring,
    texts: Sequence[str],
    *,
    max_new_tokens: int = 64,
    until: Sequence[str] = (),
) -> list[Answer]:
    """Greedy continuations of a few texts, for people to read.

    Args:
        engine: Has the family, whose tokenizer reads and writes.
        tailoring: The model.
        texts: Prompts, none empty.
        max_new_tokens: Most tokens of an answer.
        until: Strings after which an answer ends.

    Returns:
        One answer a text, in order.

    Raises:
        TailoringError: The model can't write: it runs out of memory, has no finite logits, or was
            made for fewer tokens.
    """
    encode = engine.family.tokenizer.encode
    prompts = [Prompt(tuple(encode(text)), max_new_tokens, tuple(until)) for text in texts]
    needed = max((len(prompt.tokens) + max_new_tokens for prompt in prompts), default=0)
    if needed > (known := max_positions(engine.family.config) or needed):
        raise TailoringError(
            f"prompt and answer may have {needed:,} tokens, and the model was made for {known:,}; "
            "ask for fewer"
        )
    generated = generate(engine, tailoring, prompts)
    if generated.answers is None:
        raise TailoringError(f"the tailoring can't write: {generated.failure}; choose another")
    return list(generated.answers)


def count_generation(
    engine: Engine, tailorings: Sequence[Tailoring], prompts: Sequence[Prompt]
) -> Work:
    """Count what `generate` would do at most: if every answer were as long as it may be."""
    work = Work()
    for batch in _batches(engine, prompts):
        chosen = [prompts[index] for index in batch]
        width, steps = max(len(one.tokens) for one in chosen), chosen[0].max_new_tokens
        run = len(batch) * (width + steps - 1)
        n_layers = sum(len(tailoring.layers) for tailoring in tailorings)
        held = max(len(tailoring.layers) for tailoring in tailorings)
        hidden = int(engine.family.config.hidden_size) * engine.family.dtype.itemsize
        work += Work(
            layer_tokens=run * n_layers,
            unshared=run * n_layers,
            n_runs=steps * n_layers,
            input_tokens=run * len(tailorings),
            target_tokens=len(batch) * steps * len(tailorings),
            n_bytes=2 * run * held * hidden,  # keys and values, no wider than the stream
        )
    return work


def _batches(engine: Engine, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of prompts that are run together: with the same limits, and of similar length.

    Of equal length where the generation config counts tokens of the prompt, and so of its padding;
    or where an answer may grow beyond a length at which the rotary embedding changes.
    """
    config = engine.family.generation_config
    counts = config is not None and (
        config.repetition_penalty not in (None, 1.0) or config.no_repeat_ngram_size not in (None, 0)
    )

    def group(index: int) -> tuple[int, tuple[str, ...], int, int]:
        one = prompts[index]
        first = len(one.tokens)
        ends = (first, first + one.max_new_tokens)
        kinds = [bisect.bisect_left(engine.rotary_bounds, length) for length in ends]
        same = counts or kinds[0] != kinds[1]
        return one.max_new_tokens, one.until, kinds[0], first if same else 0

    order = sorted(
        range(len(prompts)), key=lambda index: (*group(index), -len(prompts[index].tokens), index)
    )
    batches: list[list[int]] = []
    for _, found in itertools.groupby(order, key=group):
        indices = list(found)
        while indices:
            first = prompts[indices[0]]  # the longest
            room = _BATCH_TOKENS // (len(first.tokens) + first.max_new_tokens)
            n = min(max(1, room), _BATCH_PROMPTS)
            batches.append(indices[:n])
            indices = indices[n:]
    return batches


def _run(engine: Engine, model: Any, prompts: Sequence[Prompt]) -> tuple[list[Answer] | None, int]:
    """Answers to one batch, None if logits are not finite; and the tokens run through a layer."""
    tokenizer, first = engine.family.tokenizer, prompts[0]
    width = max(len(prompt.tokens) for prompt in prompts)
    eos = model.generation_config.eos_token_id
    ends = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
    tokens = torch.zeros(len(prompts), width, dtype=torch.int64)  # (B, T), padded on the left
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, width - len(prompt.tokens) :] = torch.tensor(prompt.tokens)
        mask[row, width - len(prompt.tokens) :] = 1
    stop, finite = _StopStrings(tokenizer, first.until, width), _Finite()
    written = model.generate(
        input_ids=tokens.to(engine.device),
        attention_mask=mask.to(engine.device),
        do_sample=False,
        num_beams=1,
        max_new_tokens=first.max_new_tokens,
        pad_token_id=0,  # masked, or behind an answer's end
        logits_processor=LogitsProcessorList([finite]),
        stopping_criteria=StoppingCriteriaList([stop] if first.until else []),
    )[:, width:].tolist()
    n_run = len(prompts) * (width + len(written[0]) - 1)
    if not finite.all:
        return None, n_run
    answers = []
    for row, end in zip(written, stop.ends or [math.inf] * len(prompts), strict=True):
        at_end = next((n for n, token in enumerate(row, 1) if token in ends), len(row))
        kept = row[: int(min(end, at_end))]
        answers.append(Answer(tuple(kept), tokenizer.decode(kept, skip_special_tokens=True)))
    return answers, n_run


class _StopStrings(StoppingCriteria):  # type: ignore[misc]  # untyped
    """Ends each row whose last tokens hold a stop string, as lm-eval looks for it."""

    def __init__(self, tokenizer: Any, until: Sequence[str], width: int) -> None:
        self.ends: list[float] = []  # of each row, its length when it was ended
        self._tokenizer, self._until, self._width = tokenizer, until, width
        sizes = [len(tokenizer.encode(stop, add_special_tokens=False)) for stop in until]
        self._n_tokens = max(sizes, default=0) + _LOOKBACK

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Any:
        """Which rows end now: bool (B,)."""
        new = input_ids[:, self._width :]
        self.ends = self.ends or [math.inf] * len(new)
        texts = self._tokenizer.batch_decode(new[:, -self._n_tokens :])
        found = [any(stop in text for stop in self._until) for text in texts]
        for row, end in enumerate(found):
            if end:
                self.ends[row] = min(self.ends[row], new.shape[1])
        return torch.tensor(found, device=input_ids.device)


class _Finite(LogitsProcessor):  # type: ignore[misc]  # untyped
    """Notes whether all logits so far are finite; changes none."""

    def __init__(self) -> None:
        self._any_nan: Tensor | None = None  # on the device, which no token waits for

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look at the logits of the next token, (B, V)."""
        found = scores.isnan().any()
        self._any_nan = found if self._any_nan is None else self._any_nan | found
        return scores

    @property
    def all(self) -> bool:
        """Whether all logits so far are finite."""
        return self._any_nan is None or not bool(self._any_nan)
