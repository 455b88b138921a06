"""What a candidate costs: the published procedure, models in memory, and the engine.

Scores the same candidates on the same examples in four ways, in one run, and holds their accuracies
against each other:

- *published*: for each candidate read the members' tensors from disk, merge, write a checkpoint,
  load it, build the tasks anew and let lm-eval score it in batches of 4 (the steps of the published
  code, with lm-eval's Hugging Face backend);
- *in memory*: put the candidate together in memory; tasks built once, lm-eval, batches of 16;
- *one at a time*: the engine, every candidate alone;
- *as a search asks*: the engine, a parent and its swap children in one group.

The slow ways are run on fewer candidates (`--slow`); every figure is seconds a candidate.

    python benchmarks/engine.py --dtype float32 --examples 20 --out benchmarks/results
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gptailor.assemble import Assembly, assemble, max_length_of, open_tasks
from gptailor.config import Config, load_config
from gptailor.engine.prefix import shared_share
from gptailor.export.weights import tailored_weights
from gptailor.family import tailored_config
from gptailor.family.family import Family
from gptailor.family.skeleton import model_around
from gptailor.machine import cpu_name
from gptailor.search.mutation import mutate
from gptailor.tailoring import Tailoring
from gptailor.tasks.harness import evaluate_model
from gptailor.trial import Job, Scores

HERE = Path(__file__).resolve().parent
LIBRARIES = ("gptailor", "torch", "transformers", "lm-eval")


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "examples/smollm2/tailor.yaml")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--examples", type=int, default=20, help="of each task")
    parser.add_argument("--children", type=int, default=15)
    parser.add_argument("--slow", type=int, default=2, help="candidates for the slow ways")
    parser.add_argument("--out", type=Path, default=None, help="folder for the JSON")
    asked = parser.parse_args()
    assembly = assemble(_config(asked.config, asked.dtype, asked.examples))
    candidates = swap_children(assembly, asked.children)
    few = candidates[: asked.slow]
    ways: dict[str, tuple[float, list[Scores]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        members = save_members(assembly.family, Path(scratch))
        ways["published"] = timed(lambda one: published(assembly, members, one), few)
    ways["in memory"] = timed(lambda one: in_memory(assembly, one), few)
    ways["one at a time"] = timed(lambda one: ours(assembly, [one])[0], candidates)
    started = time.perf_counter()
    scores = ours(assembly, candidates)
    ways["as a search asks"] = ((time.perf_counter() - started) / len(candidates), scores)
    told = {
        "seconds_per_candidate": {name: seconds for name, (seconds, _) in ways.items()},
        "worst_gap_in_accuracy": worst_gap(ways),
        "prefix_saved": shared_share(candidates),
        "layer_tokens_per_second": layer_tokens_per_second(assembly, candidates),
        "bare_layer_tokens_per_second": bare_layer(assembly),
        "candidates": len(candidates),
        "slow_candidates": len(few),
        "examples_per_task": asked.examples,
        "dtype": asked.dtype,
        "machine": machine(),
    }
    show(told)
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        name = f"engine-{time.strftime('%Y-%m-%d')}-{asked.dtype}.json"
        (asked.out / name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def _config(path: Path, dtype: str, n_examples: int) -> Config:
    config = load_config(path)
    tasks = tuple(t.model_copy(update={"report_limit": n_examples}) for t in config.tasks)
    family = config.family.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"tasks": tasks, "family": family})


def swap_children(assembly: Assembly, n_children: int) -> list[Tailoring]:
    """A random parent and children that cut another layer each, as evolution makes them."""
    rng = np.random.default_rng(0)
    family = [assembly.space.random(rng)]
    while len(family) <= n_children:
        made = mutate(assembly.space, family[0], rng, rates={"swap": 1.0}, late=0.5)
        if made is not None and made[0] not in family:
            family.append(made[0])
    return family


def save_members(family: Family, folder: Path) -> dict[str, Path]:
    """What the published procedure finds on disk: one checkpoint a member; not timed."""
    places = {}
    for member, state in family.states.items():
        places[member] = folder / f"{member}.safetensors"
        save_file({name: t.clone() for name, t in state.items()}, places[member])
    return places


def published(assembly: Assembly, members: dict[str, Path], one: Tailoring) -> Scores:
    """Read, merge, write, load, build the tasks, score: everything again for each candidate."""
    family, config = assembly.family, assembly.config
    used = {member for spec in (*one.layers, one.embedding, one.head) for member in spec.members}
    states = {
        name: load_file(members[name]) if name in used else state
        for name, state in family.states.items()
    }
    read = Family(
        config=family.config,
        layout=family.layout,
        dtype=family.dtype,
        states=states,
        sources=family.sources,
        base_tokenizer=family.tokenizer,
    )
    with tempfile.TemporaryDirectory() as folder:
        assembled(read, one).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=family.dtype)
        tasks = open_tasks(config, family)
        return evaluate_model(
            model,
            tasks,
            tokenizer=family.tokenizer,
            max_length=max_length_of(config, family),
            batch_size=4,
        )


def in_memory(assembly: Assembly, one: Tailoring) -> Scores:
    """Assemble in memory and let lm-eval score it; the tasks are there already."""
    return evaluate_model(
        assembled(assembly.family, one),
        assembly.tasks,
        tokenizer=assembly.family.tokenizer,
        max_length=max_length_of(assembly.config, assembly.family),
        batch_size=16,
    )


def assembled(family: Family, one: Tailoring) -> Any:
    """A stock model of one candidate."""
    config = tailored_config(family.config, [spec.position for spec in one.layers])
    weights = tailored_weights(family, one, path=family.layout.layers, dtype=family.dtype)
    return model_around(config, weights, family.dtype)


def ours(assembly: Assembly, group: Sequence[Tailoring]) -> list[Scores]:
    """Score a group with the engine, on the report part."""
    n_examples = assembly.plan.sizes["report"]
    done = assembly.evaluator.evaluate([Job(one, n_examples, "report") for one in group])
    return [one.scores for one in done if one.scores is not None]


def timed(
    way: Callable[[Tailoring], Scores], candidates: Sequence[Tailoring]
) -> tuple[float, list[Scores]]:
    """Median seconds a candidate, and what each scored."""
    seconds, scores = [], []
    for one in candidates:
        started = time.perf_counter()
        scores.append(way(one))
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), scores


def worst_gap(ways: dict[str, tuple[float, list[Scores]]]) -> float:
    """The largest difference in any task's accuracy between two ways, over all candidates."""
    gap = 0.0
    _, truth = ways["as a search asks"]
    for _, scores in ways.values():
        for theirs, own in zip(scores, truth, strict=False):  # the slow ways scored the first few
            for task in own.tasks:
                gap = max(gap, abs(theirs.value(task, "acc") - own.value(task, "acc")))
    return gap


def layer_tokens_per_second(assembly: Assembly, candidates: Sequence[Tailoring]) -> float:
    """The engine's own speed, heads, merging and record-keeping counted as time."""
    n_examples = assembly.plan.sizes["report"]
    started = time.perf_counter()
    done = assembly.evaluator.evaluate([Job(one, n_examples, "report") for one in candidates])
    return sum(one.layer_tokens for one in done) / (time.perf_counter() - started)


@torch.inference_mode()
def bare_layer(assembly: Assembly, n_tokens: int = 2048, row: int = 128) -> float:
    """The machine's ceiling: one decoder layer on one full batch, best of ten."""
    model = model_around(
        assembly.family.config, assembly.family.states["base"], assembly.family.dtype
    )
    layer = model.get_submodule(assembly.family.layout.layers)[0]
    hidden = torch.randn(n_tokens // row, row, model.config.hidden_size).to(assembly.family.dtype)
    positions = torch.arange(row)[None]
    embeddings = model.base_model.rotary_emb(hidden, positions)
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        layer(hidden, position_embeddings=embeddings)
        best = min(best, time.perf_counter() - started)
    return n_tokens / best


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def show(told: dict[str, Any]) -> None:
    """Print the table."""
    seconds = told["seconds_per_candidate"]
    print(f"{'way':<20} {'s a candidate':>14} {'published / it':>15} {'in memory / it':>15}")
    for name, value in seconds.items():
        first, second = seconds["published"] / value, seconds["in memory"] / value
        print(f"{name:<20} {value:>14.2f} {first:>14.1f}x {second:>14.1f}x")
    share = told["layer_tokens_per_second"] / told["bare_layer_tokens_per_second"]
    print(f"worst gap in accuracy: {told['worst_gap_in_accuracy']:.4f}")
    print(f"layers saved by common prefixes: {told['prefix_saved']:.0%}")
    print(f"share of the bare layer's speed: {share:.2f}")
    print(json.dumps(told["machine"]))


if __name__ == "__main__":
    main()
