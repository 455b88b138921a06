"""What a candidate costs: the published procedure, models in memory, and the engine.

Scores the same candidates on the same examples in four ways, in one run and in turns, and holds
their accuracies against each other; in float32 it fails where they differ by more than a near tie:

- *published*: for each candidate read the members' tensors from disk, merge, write a checkpoint,
  load it, build the tasks anew and let lm-eval score it in batches of 4 (the steps of the published
  code, with lm-eval's Hugging Face backend);
- *in memory*: put the candidate together in memory; tasks built once, lm-eval, batches of 16;
- *one at a time*: the engine, every candidate alone;
- *as a search asks*: the engine, a group at once: a parent and its swap children; a generation of
  mixed mutations; and a rung of three times the examples after a first rung.

The slow ways are run on fewer candidates (`--slow`); every figure is a median of seconds a
candidate, and no merged layer is at hand when the clock starts. The machine's ceiling is one bare
decoder layer on a full batch of 2,048 tokens, run again and again between the engine's own layers:
a machine shared with others changes its pace within a second.

    python benchmarks/engine.py --dtype bfloat16 --examples 40 --out benchmarks/results
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import keep, machine, peak_mib, prefix_share, table, told_of, watch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gptailor.app.assemble import Assembly, assemble, open_study
from gptailor.app.inputs import max_length_of, open_tasks
from gptailor.config import Config, load_config
from gptailor.core.lru_cache import LruCache
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Evaluation, Job, Scores
from gptailor.export.checkpoint import tailored_weights
from gptailor.family import tailored_config
from gptailor.family.empty_model import model_around
from gptailor.family.family import Family
from gptailor.record.journal import Journal
from gptailor.searchers.mutation import CHANGES, mutate
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model

HERE = Path(__file__).resolve().parent
N_BARE = 2048  # tokens of a full batch
LATE = 0.75  # how late children differ from their parent; evolution has 0.65 by default


def main() -> None:
    """Measure, print the tables, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "examples/smollm2/tailor.yaml")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--examples", type=int, default=40, help="of each task")
    parser.add_argument("--children", type=int, default=15)
    parser.add_argument("--slow", type=int, default=3, help="candidates for the slow ways")
    parser.add_argument("--trials", type=int, default=60, help="of the study that is timed")
    parser.add_argument("--out", type=Path, default=None, help="folder for the results")
    asked = parser.parse_args()
    assembly = assemble(config_of(asked.config, asked.dtype, asked.examples))
    rng = np.random.default_rng(asked.children)
    parent = assembly.space.random(rng)
    swaps = [parent, *children(assembly, parent, rng, asked.children, {"swap": 1.0})]
    mixed = children(assembly, parent, rng, asked.children + 1, dict.fromkeys(CHANGES, 1.0))
    told: dict[str, Any] = {"machine": machine(), "dtype": asked.dtype}
    told |= {"candidates": len(swaps), "examples_per_task": asked.examples}
    ways = scored_ways(assembly, swaps, asked.slow)
    told["seconds_per_candidate"] = {name: round(s, 4) for name, (s, _) in ways.items()}
    told["seconds_per_candidate"]["as a search asks, mixed"] = grouped(assembly, mixed)[0]
    told["rung"] = rung_after_rung(assembly, swaps)
    told["worst_gap_in_accuracy"] = worst_gap(ways)
    told["layer_tokens"] = layer_tokens(assembly, swaps, mixed)
    told["speed"] = speed(assembly, swaps)
    told["study"] = study_overhead(assembly, asked.trials)
    told["peak_mib"] = {"process": peak_mib(), "family": assembly.family.nbytes / 2**20}
    keep(asked.out, f"engine-{asked.dtype}", told, text_of(told))
    if asked.dtype == "float32" and told["worst_gap_in_accuracy"] > 1.5 / asked.examples:
        raise SystemExit("the ways disagree by more than one question of a task in float32")


def config_of(path: Path, dtype: str, n_examples: int) -> Config:
    """The demo's config with as many examples to search on as are asked for, in three rungs."""
    config = load_config(path)
    tasks = tuple(t.model_copy(update={"test_limit": n_examples}) for t in config.tasks)
    family = config.family.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"tasks": tasks, "family": family})


def children(
    assembly: Assembly,
    parent: Tailoring,
    rng: np.random.Generator,
    n: int,
    rates: dict[str, float],
) -> list[Tailoring]:
    """Distinct children of a parent, as evolution makes them."""
    made: list[Tailoring] = []
    while len(made) < n:
        child = mutate(assembly.space, parent, rng, rates=rates, late=LATE)
        if child is not None and child[0] not in (parent, *made):
            made.append(child[0])
    return made


def scored_ways(
    assembly: Assembly, candidates: Sequence[Tailoring], n_slow: int
) -> dict[str, tuple[float, list[Scores]]]:
    """Way to median seconds a candidate and the scores; in turns, for machines change their pace.

    The slow ways score the first `n_slow` candidates only.
    """
    seconds: dict[str, list[float]] = {}
    scores: dict[str, list[Scores]] = {}
    ours(assembly, candidates[:1])  # the tasks are packed once a study
    with tempfile.TemporaryDirectory() as scratch:
        members = save_members(assembly.family, Path(scratch))
        alone: dict[str, Callable[[Tailoring], Scores]] = {
            "published": lambda one: published(assembly, members, one),
            "one at a time": lambda one: ours(assembly, [one])[0],
            "in memory": lambda one: in_memory(assembly, one),
        }
        for one in candidates[:n_slow]:
            for name in (*alone, "one at a time"):  # before and after a slow one
                started = time.perf_counter()
                scored = alone[name](one)
                seconds.setdefault(name, []).append(time.perf_counter() - started)
                scores.setdefault(name, []).append(scored)
            scores["one at a time"].pop()
            a_candidate, scores["as a search asks"] = grouped(assembly, candidates)
            seconds.setdefault("as a search asks", []).append(a_candidate)
    scores["one at a time"] += [ours(assembly, [one])[0] for one in candidates[n_slow:]]
    return {name: (statistics.median(taken), scores[name]) for name, taken in seconds.items()}


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
        paths=family.paths,
        own_tokenizer=family.tokenizer,
    )
    with tempfile.TemporaryDirectory() as folder:
        assembled(read, one).save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=family.dtype)
        return evaluate_model(
            model,
            open_tasks(config, family),
            tokenizer=family.tokenizer,
            max_length=max_length_of(family, config.engine.max_length),
            batch_size=4,
        )


def in_memory(assembly: Assembly, one: Tailoring) -> Scores:
    """Assemble in memory and let lm-eval score it; the tasks are there already."""
    return evaluate_model(
        assembled(assembly.family, one),
        assembly.tasks,
        tokenizer=assembly.family.tokenizer,
        max_length=max_length_of(assembly.family, assembly.config.engine.max_length),
        batch_size=16,
    )


def assembled(family: Family, one: Tailoring) -> Any:
    """A stock model of one candidate."""
    config = tailored_config(family.config, [spec.position for spec in one.layers])
    weights = tailored_weights(family, one, path=family.layout.layers, dtype=family.dtype)
    return model_around(config, weights, family.dtype)


def evaluated(assembly: Assembly, group: Sequence[Tailoring]) -> list[Evaluation]:
    """What the engine says of a group on the test split; merged layers are still to be made."""
    assembly.evaluator.engine.layers.merged = LruCache(assembly.config.engine.cache_bytes)
    n_examples = assembly.plan.sizes["test"]
    return assembly.evaluator.evaluate([Job(one, n_examples, "test") for one in group])


def ours(assembly: Assembly, group: Sequence[Tailoring]) -> list[Scores]:
    """The engine's scores of a group."""
    return [one.scores for one in evaluated(assembly, group) if one.scores is not None]


def grouped(assembly: Assembly, group: Sequence[Tailoring]) -> tuple[float, list[Scores]]:
    """Seconds a candidate, and the scores, of a group that is asked at once."""
    started = time.perf_counter()
    scores = ours(assembly, group)
    return round((time.perf_counter() - started) / len(group), 4), scores


def worst_gap(ways: dict[str, tuple[float, list[Scores]]]) -> float:
    """The largest difference in any task's accuracy between two ways, over all candidates."""
    gap = 0.0
    _, truth = ways["as a search asks"]
    for _, scores in ways.values():
        for theirs, own in zip(scores, truth, strict=False):  # the slow ways scored the first few
            pairs = zip(theirs.tasks.values(), own.tasks.values(), strict=True)
            gap = max(gap, *(abs(a["acc"].value - b["acc"].value) for a, b in pairs))
    return gap


def rung_after_rung(assembly: Assembly, candidates: Sequence[Tailoring]) -> dict[str, float]:
    """A third of a group goes on to three times the examples: with and without the first rung."""
    low, high = assembly.plan.rungs[-2:]
    evaluate = assembly.evaluator.evaluate
    first = evaluate([Job(one, low) for one in candidates])
    going_on = list(zip(candidates, first, strict=True))[: max(1, len(candidates) // 3)]
    seconds = {}
    for name, jobs in (
        ("after the first", [Job(one, high, known=done.scores) for one, done in going_on]),
        ("from nothing", [Job(one, high) for one, _ in going_on]),
    ):
        started = time.perf_counter()
        evaluate(jobs)
        seconds[name] = round((time.perf_counter() - started) / len(jobs), 4)
    return {"low": low, "high": high, **seconds}


def layer_tokens(
    assembly: Assembly, swaps: Sequence[Tailoring], mixed: Sequence[Tailoring]
) -> dict[str, float]:
    """What each kind of sharing leaves of the layer-tokens, as shares of what was before it."""
    tasks = [parts.test for parts in assembly.tasks.values()]
    passages = [p for t in tasks for i in range(t.n_examples) for p in t.passages(i)]
    alone = sum(len(p.context) + len(c) - 1 for p in passages for c in p.continuations)
    run = assembly.evaluator.tokens("test", 0, assembly.plan.sizes["test"])
    low, high = assembly.plan.rungs[-2:]
    rest = assembly.evaluator.tokens("search", low, high)
    return {
        "contexts": run / alone,
        "prefixes_swaps": 1 - prefix_share(swaps),
        "prefixes_mixed": 1 - prefix_share(mixed),
        "rungs": rest / (rest + assembly.evaluator.tokens("search", 0, low)),
    }


def speed(assembly: Assembly, candidates: Sequence[Tailoring]) -> dict[str, Any]:
    """Layer-tokens a second, and where the time of a group goes."""
    n_bare = 0

    def bare() -> None:
        nonlocal n_bare
        run_bare()
        n_bare += N_BARE

    run_bare = bare_layer(assembly)
    with watch(beside=bare) as spent:
        started = time.perf_counter()
        done = evaluated(assembly, candidates)
        seconds = time.perf_counter() - started
    ceiling = n_bare / spent["beside"]
    seconds -= spent.pop("beside")
    run = sum(one.layer_tokens for one in done)
    outside = seconds - sum(spent.values())
    n_examples, n_candidates = assembly.plan.sizes["test"], len(candidates)
    alone = assembly.evaluator.count([Job(candidates[0], n_examples, "test")])
    predicted = alone.target_tokens * n_candidates
    return {
        "bare_layer": ceiling,
        "in_layers": run / spent["layers"],
        "everything_counted": run / seconds,
        "with_heads_as_layer_tokens": (run + predicted * head_in_layers(assembly)) / seconds,
        "seconds": {**spent, "merging, assembly, scores": outside},
        "outside_forwards_ms_per_candidate": 1000 * outside / len(candidates),
    }


def head_in_layers(assembly: Assembly) -> float:
    """How many layers a token goes through for the arithmetic of one prediction by the head."""
    config, parameters = assembly.family.config, assembly.family.layer_parameters
    return float(config.vocab_size * config.hidden_size / statistics.mean(parameters))


@torch.inference_mode()
def bare_layer(assembly: Assembly, row: int = 128) -> Callable[[], None]:
    """The machine's ceiling: one decoder layer as transformers runs it, on one full batch."""
    family = assembly.family
    model = model_around(family.config, family.states["base"], family.dtype)
    layer = model.get_submodule(family.layout.layers)[0]
    hidden = torch.randn(N_BARE // row, row, model.config.hidden_size).to(family.dtype)
    embeddings = model.base_model.rotary_emb(hidden, torch.arange(row)[None])

    @torch.inference_mode()
    def run() -> None:
        layer(hidden, position_embeddings=embeddings)

    run()
    return run


def study_overhead(assembly: Assembly, n_trials: int) -> dict[str, float]:
    """What a trial of a real study costs outside forwards: search, assembly, merging, record."""
    budget = assembly.config.budget.model_copy(update={"max_trials": n_trials})
    config = assembly.config.model_copy(update={"budget": budget})
    small = assemble(config)
    with tempfile.TemporaryDirectory() as folder, watch() as spent:
        with Journal(Path(folder)) as journal:
            study = open_study(small, journal, on_progress=lambda _: None)
            started = time.perf_counter()
            study.run()
            seconds = time.perf_counter() - started
        n_done = len(study.trials)
    outside = seconds - sum(spent.values())
    return {
        "trials": n_done,
        "seconds": seconds,
        "outside_forwards_ms_per_trial": 1000 * outside / n_done,
    }


def text_of(told: dict[str, Any]) -> str:
    """The tables."""
    return "\n".join([*_costs(told), *_shares(told), *_speeds(told)])


def _costs(told: dict[str, Any]) -> list[str]:
    seconds = told["seconds_per_candidate"]
    rows = [
        [name, f"{value:.2f}"]
        + [f"{seconds[other] / value:.1f}x" for other in ("published", "in memory")]
        for name, value in seconds.items()
    ]
    return [
        f"# The engine in {told['dtype']}",
        "",
        told_of(told["machine"]),
        "",
        f"{told['candidates']} candidates, {told['examples_per_task']} examples of each task.",
        "",
        table(["way", "s a candidate", "published / it", "in memory / it"], rows),
        "",
        f"The largest difference in any task's accuracy: {told['worst_gap_in_accuracy']:.4f}.",
        "",
    ]


def _shares(told: dict[str, Any]) -> list[str]:
    left, rung = told["layer_tokens"], told["rung"]
    swaps, mixed = left["prefixes_swaps"], left["prefixes_mixed"]
    rows = [
        ["contexts and whatever begins alike", f"{left['contexts']:.2f}"],
        ["prefixes, a parent and its swap children", f"{swaps:.2f}"],
        ["prefixes, a generation of mixed mutations", f"{mixed:.2f}"],
        [f"rungs, {rung['high']} examples after {rung['low']}", f"{left['rungs']:.2f}"],
        ["contexts and prefixes together, swap children", f"{left['contexts'] * swaps:.2f}"],
    ]
    return [
        table(["sharing of", "layer-tokens left"], rows),
        "",
        f"Going on from {rung['low']} to {rung['high']} examples: {rung['after the first']:.2f} s "
        f"a candidate; from nothing: {rung['from nothing']:.2f} s.",
        "",
    ]


def _speeds(told: dict[str, Any]) -> list[str]:
    speeds, study = told["speed"], told["study"]
    bare = speeds["bare_layer"]
    rows = [
        [name, f"{speeds[key]:,.0f}", f"{speeds[key] / bare:.2f}"]
        for name, key in (
            ("a bare layer, 2,048 tokens", "bare_layer"),
            ("the engine, inside layers", "in_layers"),
            ("the engine, all time counted", "everything_counted"),
            ("the same, and heads by their arithmetic", "with_heads_as_layer_tokens"),
        )
    ]
    total = sum(speeds["seconds"].values())
    spent = [[name, f"{value / total:.1%}"] for name, value in speeds["seconds"].items()]
    return [
        table(["speed", "layer-tokens a second", "of the ceiling"], rows),
        "",
        table(["where the time goes", "share"], spent),
        "",
        f"Outside forwards: {speeds['outside_forwards_ms_per_candidate']:.0f} ms a candidate; in a "
        f"study of {study['trials']} trials, search and record counted, "
        f"{study['outside_forwards_ms_per_trial']:.0f} ms a trial.",
        "",
        f"Peak memory: {told['peak_mib']['process']:,.0f} MiB, of which the family "
        f"{told['peak_mib']['family']:,.0f} MiB; lm-eval's models count.",
    ]


if __name__ == "__main__":
    main()
