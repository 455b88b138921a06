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
import json
import os
import statistics
import time
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gptailor.assemble import Assembly, assemble
from gptailor.config import Config, PluginConfig, load_config
from gptailor.machine import cpu_name
from gptailor.search.mutation import mutate
from gptailor.tailoring import Tailoring
from gptailor.trial import Evaluation, Job
from gptailor.workers import WorkerPool

HERE = Path(__file__).resolve().parent
LIBRARIES = ("gptailor", "torch", "transformers")


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
        "rows": table(rows),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in LIBRARIES},
    }
    if asked.out is not None:
        asked.out.mkdir(parents=True, exist_ok=True)
        name = f"{time.strftime('%Y-%m-%d')}-scaling-{asked.pool}.json"
        (asked.out / name).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


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
    made = []
    for _ in range(n_parents):
        parent = assembly.space.random(rng)
        family = [parent]
        while len(family) <= n_children:
            child = mutate(assembly.space, parent, rng, rates={"swap": 1.0}, late=0.5)
            if child is not None and child[0] not in family:
                family.append(child[0])
        made += family
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


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print a line for each number of workers; the scores must agree."""
    first = rows[0]
    told = []
    print("workers   s a generation   speed   a worker's share   layer-tokens   same scores")
    for row in rows:
        same = row["scores"] == first["scores"]
        seconds = statistics.median(row["seconds"])
        speed = statistics.median(first["seconds"]) / seconds
        share = speed * first["workers"] / row["workers"]
        cost = row["layer_tokens"] / first["layer_tokens"]
        print(
            f"{row['workers']:7d}   {seconds:14.2f}   {speed:5.2f}   {share:16.2f}   "
            f"{cost:12.2f}   {'yes' if same else 'NO'}"
        )
        told.append(
            {
                "workers": row["workers"],
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


if __name__ == "__main__":
    main()
