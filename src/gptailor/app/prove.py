"""Prove a target: measure base and result side by side after the search, and record it."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from gptailor.app.assemble import Assembly
from gptailor.app.targets import sizes_of
from gptailor.config.target_config import TargetConfig
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.engine.device import device_of
from gptailor.engine.generate import model_of
from gptailor.errors import UserError
from gptailor.evaluation.timing import (
    Rates,
    has_llama_cpp,
    in_turns,
    llama_cpp_rates,
    transformers_rates,
)
from gptailor.export import export_gguf
from gptailor.export.checkpoint import SAVED_DTYPES
from gptailor.family import Family
from gptailor.record.entries import ProofEntry
from gptailor.record.journal import Journal
from gptailor.searchers.space import kept_positions

__all__ = ["record_proof"]

_Sizes = dict[str, tuple[int, int]]
_Rounds = dict[str, tuple[tuple[float, ...], tuple[float, ...]]]


def record_proof(
    journal: Journal, assembly: Assembly, chosen: Tailoring, on_message: Callable[[str], None]
) -> None:
    """Measure base and result, unless the record has it already; nothing without a target."""
    target, family = assembly.config.target, assembly.family
    known = [entry.tailoring for entry in journal.of(ProofEntry)]
    if target is None or chosen.digest in known:
        return
    on_message("timing the base and the result side by side ...")
    device, engine = device_of(assembly.config.engine.device), assembly.evaluator.engine
    pair = {"base": Tailoring.whole(BASE, family.n_layers), "result": chosen}
    models = {name: model_of(engine, each).to(device) for name, each in pair.items()}
    timed = in_turns({name: transformers_rates(model) for name, model in models.items()})
    sizes, rates = _sizes(target, family, chosen), _named("transformers", timed)
    if has_llama_cpp():
        try:
            files, more = _on_llama_cpp(family, pair, journal.path.parent)
            sizes, rates = sizes | files, rates | more
        except UserError as error:
            on_message(f"note: not timed with llama.cpp: {'; '.join(error.problems)}")
    dtype = str(family.dtype).removeprefix("torch.")
    journal.append(
        ProofEntry(tailoring=chosen.digest, device=device, dtype=dtype, sizes=sizes, rates=rates)
    )


def _sizes(target: TargetConfig, family: Family, chosen: Tailoring) -> _Sizes:
    """Parameters, and bytes of weights and cache, of the base and of the result."""
    sizes, every = sizes_of(target, family), range(family.n_layers)
    found = {n: (s.left(every), s.left(kept_positions(chosen))) for n, s in sizes.items()}
    base, result = found["parameters"]
    dtype = target.dtype or str(family.dtype).removeprefix("torch.")
    n_bytes = SAVED_DTYPES[dtype].itemsize
    return {
        "parameters": (base, result),
        f"checkpoint in {dtype}, bytes": (base * n_bytes, result * n_bytes),
        f"weights and cache of {target.batch} x {target.context} tokens, bytes": found["memory"],
    }


def _on_llama_cpp(
    family: Family, pair: Mapping[str, Tailoring], folder: Path
) -> tuple[_Sizes, _Rounds]:
    """File sizes and rates of both as GGUF files, which are removed again."""
    with tempfile.TemporaryDirectory(dir=folder) as beside:
        files = {name: Path(beside) / f"{name}.gguf" for name in pair}
        for name, tailoring in pair.items():
            export_gguf(family, tailoring, files[name])
        timed = in_turns({name: llama_cpp_rates(file) for name, file in files.items()})
        base, result = (file.stat().st_size for file in files.values())
    return {"GGUF file in f16, bytes": (base, result)}, _named("llama.cpp on the CPU", timed)


def _named(runtime: str, timed: Mapping[str, tuple[Rates, ...]]) -> _Rounds:
    """What was timed to the rates of the base and of the result, a round each."""
    base, result = timed["base"], timed["result"]
    return {
        f"{runtime}, {part}": (tuple(r[i] for r in base), tuple(r[i] for r in result))
        for i, part in enumerate(("prompt", "generation"))
    }
