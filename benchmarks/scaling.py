"""How evaluations spread: the same generations on 1, 2, ... single-threaded workers.

A generation is what a search asks for at once: parents, and children that change one of their
layers. For each number of workers it is scored by a fresh pool, whose workers are started and have
packed their batches before the clock runs. Scores must be the same to the bit; `layer_tokens` grow
with the workers, for what two workers share is run by both. It prints seconds, the speed against
the first number of workers, and the share of it that is left to each.

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
from gptailor.assemble import Assembly, assemble
from gptailor.config import Config, PluginConfig, load_config
from gptailor.tailoring import Tailoring
from gptailor.trial import Evaluation, Job
from gptailor.workers import WorkerPool

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "examples/smollm2/tailor.yaml")
    parser.add_argument("--pool", choices=("local", "ray"), default="local")
    parser.add_argument("--address", default="local", help="of a Ray cluster")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--parents", type=int, default=4, help="of each generation")
    parser.add_argument("--children", type=int, default=7, help="of each parent")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--examples", type=int, default=20, help="of each task")
    parser.add_argument("--out", type=Path, default=None, help="folder for the JSON")
    asked = parser.parse_args()
    assembly = assemble(_config(asked.config))
    generations = [
        generation(assembly, np.random.default_rng(seed), asked.parents, asked.children)
        for seed in range(asked.generations)
    ]
    rows = []
    for n_workers in asked.workers:
        options = {"n_workers": n_workers}
        if asked.pool == "ray":
            options["address"] = asked.address
        pool = _pool(assembly, asked.pool, options)
        rows.append(measured(pool, n_workers, generations, asked.examples))
    told = {
        "pool": asked.pool,
        "candidates": sum(map(len, generations)),
        "examples_per_task": asked.examples,
        "rows": compared(rows),
        "machine": machine(),
    }
    keep(asked.out, f"scaling-{asked.pool}", told, text_of(told))


def _config(path: Path) -> Config:
    config = load_config(path)
    return config.model_copy(update={"engine": config.engine.model_copy(update={"threads": 1})})


def _pool(assembly: Assembly, name: str, options: dict[str, Any]) -> WorkerPool:
    workers = PluginConfig(name=name, options=options)
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
    pool: WorkerPool, n_workers: int, generations: list[list[Tailoring]], n_examples: int
) -> dict[str, Any]:
    """Seconds of each generation, and what was scored."""
    seconds, done = [], []
    with closing(pool):
        warm = [Job(one, n_examples) for one in generations[0][:: len(generations[0]) // n_workers]]
        _scored(pool, warm[:n_workers])
        for candidates in generations:
            started = time.perf_counter()
            done += _scored(pool, [Job(one, n_examples) for one in candidates])
            seconds.append(time.perf_counter() - started)
    return {
        "workers": n_workers,
        "seconds": seconds,
        "layer_tokens": sum(one.layer_tokens for one in done),
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
        share = speed * first["workers"] / row["workers"]
        told.append(
            {
                "workers": row["workers"],
                "seconds": round(seconds, 3),
                "seconds_per_generation": [round(one, 3) for one in row["seconds"]],
                "speed": speed,
                "efficiency": share,
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
            "yes",
        ]
        for row in told["rows"]
    ]
    head = ["workers", "s a generation", "speed", "a worker's share", "layer-tokens", "same scores"]
    return "\n\n".join([told_of(told["machine"]), table(head, rows)])


if __name__ == "__main__":
    main()
