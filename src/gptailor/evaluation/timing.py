"""Time models in turns, and how many tokens a second they read and generate.

The models take turns, so that what else the machine does slows all of them.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from gptailor.family.architecture import max_positions
from gptailor.family.library_calls import quiet

__all__ = ["ROUNDS", "Rates", "has_llama_cpp", "in_turns", "llama_cpp_rates", "transformers_rates"]

ROUNDS = 5
_PROMPT, _NEW = 128, 24  # tokens

Rates = tuple[float, float]  # tokens a second: of the prompt, and generated
_Key = TypeVar("_Key")
_Timed = TypeVar("_Timed")


class _Clock:
    """A streamer that notes when each token comes."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _: torch.Tensor) -> None:
        """Take the prompt first, then a token at a time; they are on the CPU."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to finish."""


def in_turns(runs: Mapping[_Key, Callable[[], _Timed]]) -> dict[_Key, tuple[_Timed, ...]]:
    """What each function returns in each round, after a first round that warms everything up."""
    rounds = [{key: run() for key, run in runs.items()} for _ in range(1 + ROUNDS)]
    return {key: tuple(each[key] for each in rounds[1:]) for key in runs}


def transformers_rates(model: Any) -> Callable[[], Rates]:  # transformers is untyped here
    """Generate greedily with transformers, batch 1, within the model's own length."""
    n = min(_PROMPT, (max_positions(model.config) or _PROMPT + _NEW) - _NEW)
    prompt = torch.arange(n, device=model.device)[None] % model.config.vocab_size

    def run() -> Rates:
        clock, started = _Clock(), time.perf_counter()
        with quiet():
            model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                min_new_tokens=_NEW,
                max_new_tokens=_NEW,
                do_sample=False,
                pad_token_id=0,
                streamer=clock,
            )
        _, first, *_, last = clock.times  # the prompt itself is put first
        return n / (first - started), (_NEW - 1) / (last - first)

    return run


def has_llama_cpp() -> bool:
    """Whether llama-cpp-python is installed."""
    return importlib.util.find_spec("llama_cpp") is not None


def llama_cpp_rates(file: Path) -> Callable[[], Rates]:
    """Generate greedily with llama.cpp on the CPU, from a GGUF file."""
    from llama_cpp import Llama

    threads = torch.get_num_threads()
    with quiet():
        model = Llama(
            str(file), n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False
        )

    def run() -> Rates:
        model.reset()
        started = time.perf_counter()
        model.eval([token % model.n_vocab() for token in range(_PROMPT)])
        token = model.sample(temp=0.0)
        first = time.perf_counter()
        for _ in range(_NEW - 1):
            model.eval([token])
            token = model.sample(temp=0.0)
        return _PROMPT / (first - started), (_NEW - 1) / (time.perf_counter() - first)

    return run
