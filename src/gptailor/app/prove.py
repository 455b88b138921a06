"""Prove a target: measure base and result side by side after the search, and record it."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import PreTrainedModel

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
from gptailor.export.narrow import Narrowing, narrowing
from gptailor.family import Family
from gptailor.family.architecture import layers_path
from gptailor.family.empty_model import model_around
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
    narrow = narrowing(family, chosen)
    models = {name: model_of(engine, each).to(device) for name, each in pair.items()}
    if narrow is not None:
        models["result"] = _narrowed(models["result"], narrow).to(device)
    timed = in_turns({name: transformers_rates(model) for name, model in models.items()})
    sizes = _sizes(target, family, chosen, narrow)
    rates = _named("transformers", timed)
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


def _narrowed(model: PreTrainedModel, narrow: Narrowing) -> PreTrainedModel:
    """The model without the heads and neurons that are left out of its export."""
    weights = narrow.weights(model.state_dict(), layers_path(model))
    made = model_around(narrow.config(model.config), weights, model.dtype)
    made.generation_config = model.generation_config
    return made


def _sizes(
    target: TargetConfig, family: Family, chosen: Tailoring, narrow: Narrowing | None
) -> _Sizes:
    """Parameters, and bytes of weights and cache, of the base and of the result."""
    sizes, every, kept = sizes_of(target, family), range(family.n_layers), kept_positions(chosen)
    base, result = (sizes["parameters"].left(layers) for layers in (every, kept))
    base_bytes, result_bytes = (sizes["memory"].left(layers) for layers in (every, kept))
    dtype = target.dtype or str(family.dtype).removeprefix("torch.")
    n_bytes = SAVED_DTYPES[dtype].itemsize
    if narrow is not None:
        cached = result_bytes - result * n_bytes
        result -= narrow.n_parameters
        share = len(narrow.groups[0]) / narrow.sizes.n_groups
        result_bytes = result * n_bytes + round(cached * share)
    return {
        "parameters": (base, result),
        f"checkpoint in {dtype}, bytes": (base * n_bytes, result * n_bytes),
        f"weights and cache of {target.batch} x {target.context} tokens, bytes": (
            base_bytes,
            result_bytes,
        ),
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
