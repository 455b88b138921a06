"""How evaluations spread: the same generations on 1, 2, ... single-threaded workers.

A generation is what a search asks for at once: parents, and children that change one of their
layers. For each number of workers a fresh pool scores the same generations. The first one is told
by itself: the start of the workers is in it (processes begun, members read, the engine checked,
batches packed), and it is long enough for all of them to take part. Each of the others is timed by
the clock, from asking to the last answer, and their median counts. Scores must be the same to the
bit, of all generations; `layer_tokens` grow with the workers, for what two of them share is run by
both. It prints seconds, the speed against the first number of workers, the share of it that is left
to each, and the most that the layer-tokens alone would allow.

    python benchmarks/scaling.py --pool local --workers 1 2 --out benchmarks/results
"""

import argparse
import dataclasses
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from common import keep, machine, table, told_of

from engine import children
from gptailor.app.assemble import Assembly, assemble
from gptailor.config import Config, load_config
from gptailor.config.sections import PluginConfig
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Evaluation, Job
from gptailor.workers import WorkerPool

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "examples/smollm2/tailor.yaml")
    parser.add_argument("--pool", choices=("local", "ray"), default="local")
    parser.add_argument("--address", default="local", help="of a Ray cluster")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parents", type=int, default=2, help="of each generation")
    parser.add_argument("--children", type=int, default=7, help="of each parent")
    parser.add_argument("--generations", type=int, default=5, help="that are timed, behind a first")
    parser.add_argument("--examples", type=int, default=20, help="of each task")
    parser.add_argument("--out", type=Path, default=None, help="folder for the JSON")
    asked = parser.parse_args()
    assembly = assemble(_config(asked.config))
    generations = [
        generation(assembly, np.random.default_rng(seed), asked.parents, asked.children)
        for seed in range(1 + asked.generations)
    ]
    rows = []
    for n_workers in asked.workers:
        pool = _pool(assembly, asked, n_workers)
        rows.append({"workers": n_workers} | measured(pool, generations, asked.examples))
    told = {
        "pool": asked.pool,
        "candidates": sum(map(len, generations)),
        "candidates_per_generation": len(generations[0]),
        "examples_per_task": asked.examples,
        "dtype": str(assembly.family.dtype).removeprefix("torch."),
        "rows": compared(rows),
        "machine": machine(),
    }
    keep(asked.out, f"scaling-{asked.pool}", told, text_of(told))


def _config(path: Path) -> Config:
    config = load_config(path)
    return config.model_copy(update={"engine": config.engine.model_copy(update={"threads": 1})})


def _pool(assembly: Assembly, asked: argparse.Namespace, n_workers: int) -> WorkerPool:
    options: dict[str, Any] = {"n_workers": n_workers}
    if asked.pool == "ray":
        options["address"] = asked.address
    workers = PluginConfig(name=asked.pool, options=options)
    config = assembly.config.model_copy(update={"workers": workers})
    return dataclasses.replace(assembly, config=config).pool()


def generation(
    assembly: Assembly, rng: np.random.Generator, n_parents: int, n_children: int
) -> list[Tailoring]:
    """Parents, and behind each its children."""
    made: list[Tailoring] = []
    for _ in range(n_parents):
        parent = assembly.space.random(rng)
        made += [parent, *children(assembly, parent, rng, n_children, {"swap": 1.0})]
    return made


def measured(
    pool: WorkerPool, generations: list[list[Tailoring]], n_examples: int
) -> dict[str, Any]:
    """Seconds of each generation, the first with the workers' start, and what was scored."""
    seconds, done = [], []
    with closing(pool):
        for candidates in generations:
            started = time.perf_counter()
            done += _scored(pool, [Job(one, n_examples) for one in candidates])
            seconds.append(time.perf_counter() - started)
    timed = done[len(generations[0]) :]
    return {
        "first_s": seconds[0],
        "seconds": seconds[1:],
        "layer_tokens": sum(one.layer_tokens for one in timed),
        "scores": [one.scores for one in done],
    }


def _scored(pool: WorkerPool, jobs: list[Job]) -> list[Evaluation]:
    done = list(pool.evaluate(jobs))
    failed = [one.failure for one in done if one.failure is not None]
    if failed:
        raise SystemExit(f"a candidate failed: {failed[0]}")
    return done


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold every number of workers against the first; the scores must agree."""
    first = rows[0]
    told = []
    for row in rows:
        same = row["scores"] == first["scores"]
        seconds = statistics.median(row["seconds"])
        speed = statistics.median(first["seconds"]) / seconds
        workers = row["workers"] / first["workers"]
        allowed = workers * first["layer_tokens"] / row["layer_tokens"]
        told.append(
            {
                "workers": row["workers"],
                "seconds": round(seconds, 3),
                "seconds_per_generation": [round(one, 3) for one in row["seconds"]],
                "speed": speed,
                "efficiency": speed / workers,
                "speed_allowed_by_layer_tokens": allowed,
                "first_generation_with_start_s": round(row["first_s"], 3),
                "layer_tokens": row["layer_tokens"],
                "same_scores": same,
            }
        )
    if not all(row["same_scores"] for row in told):
        raise SystemExit("scores depend on the number of workers")
    return told


def text_of(told: dict[str, Any]) -> str:
    """The table."""
    first = told["rows"][0]
    rows = [
        [
            str(row["workers"]),
            f"{row['seconds']:.2f}",
            f"{row['speed']:.2f}",
            f"{row['efficiency']:.2f}",
            f"{row['layer_tokens'] / first['layer_tokens']:.2f}",
            f"{row['speed_allowed_by_layer_tokens']:.2f}",
            f"{row['first_generation_with_start_s']:.1f}",
            "yes",
        ]
        for row in told["rows"]
    ]
    head = ["workers", "s a generation", "speed", "a worker's share", "layer-tokens"]
    head += ["speed that these allow", "s of the first, with the start", "same scores"]
    return "\n\n".join([told_of(told["machine"]), table(head, rows)])


if __name__ == "__main__":
    main()
