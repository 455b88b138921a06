"""On paper: what a search computes itself, and what the configs of large models will take.

The first is the processor time of a search beside its evaluations, at 40 and 80 layers with 8
members and 5,000 trials, its record counted. The second are forecasts of `configs/*.yaml` on a GPU
whose speed is assumed. Scores are made up, and no weight is read, so members are files of the
true sizes that are all hole: random weights would change no number. That none is read is checked:
reading a hole would bring its pages into memory.

    python benchmarks/paper.py --out benchmarks/results
"""

import argparse
import dataclasses
import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import keep, machine, table, told_of
from growth import question, questions
from torch import Tensor
from transformers import AutoConfig

from gptailor.app.expressible import expressible, outer_variants
from gptailor.config import Config, load_config
from gptailor.core.objective import Goal
from gptailor.core.plugins import SEARCHERS
from gptailor.core.tailoring import BASE
from gptailor.core.trial import Evaluation, Job
from gptailor.engine import Engine, Evaluator
from gptailor.family import Family
from gptailor.family.dtypes import DTYPES
from gptailor.family.empty_model import skeleton_of
from gptailor.family.layout import Layout
from gptailor.forecast.dry_run import CountingPool
from gptailor.forecast.forecast import forecast
from gptailor.forecast.made_up_scores import MadeUpScores
from gptailor.forecast.speed import Speed
from gptailor.record.journal import Journal
from gptailor.searchers.searcher import SearchContext, Searcher, make_searcher
from gptailor.searchers.space import Space
from gptailor.study import Plan, Progress, Study
from gptailor.tasks.task import Passage, Task

HERE = Path(__file__).resolve().parent
_WIDE = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
_LLAMA2 = {"model_type": "llama", "vocab_size": 32000, "max_position_embeddings": 4096}
SHAPES: dict[str, dict[str, Any]] = {  # of the bases that the configs of these names name
    "llama2_7b": _LLAMA2
    | {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    | {"num_attention_heads": 32, "num_key_value_heads": 32},
    "llama2_13b": _LLAMA2
    | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40}
    | {"num_attention_heads": 40, "num_key_value_heads": 40},
    "llama3_8b": _WIDE
    | {"model_type": "llama", "vocab_size": 128256, "intermediate_size": 14336}
    | {"num_hidden_layers": 32, "max_position_embeddings": 131072},
    "qwen3_8b": _WIDE
    | {"model_type": "qwen3", "vocab_size": 151936, "intermediate_size": 12288}
    | {"num_hidden_layers": 36, "max_position_embeddings": 40960},
}
FLOPS = 0.4 * 790e12  # a second: 0.4 of what one H200 multiplies in bfloat16; assumed, not measured


def main() -> None:
    """Measure, print the tables, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=None, help="folder for the results")
    asked = parser.parse_args()
    found = {
        "machine": machine(),
        "overhead": [overhead(n_layers, 8, asked.trials) for n_layers in (40, 80)],
        "flops": FLOPS,
        "forecasts": {
            name: paper_forecast(HERE.parent / "configs" / f"{name}.yaml") for name in SHAPES
        },
    }
    keep(asked.out, "paper", found, text_of(found))


class MadeUpPool:
    """A pool whose scores cost nothing but the processor time that it counts."""

    def __init__(self, made_up: MadeUpScores) -> None:
        self.seconds = 0.0
        self._made_up = made_up

    @property
    def setup(self) -> None:
        """No workers."""

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Make scores up."""
        started = time.process_time()
        done = [Evaluation(self._made_up.scores(job), layer_tokens=1) for job in jobs]
        self.seconds += time.process_time() - started
        return done

    def close(self) -> None:
        """Nothing to release."""


def overhead(n_layers: int, n_members: int, n_trials: int) -> dict[str, Any]:
    """Processor time of a search beside its evaluations, record counted, in each tenth of it."""
    variants = tuple(f"variant{number}" for number in range(1, n_members))
    splits = {
        split: {name: dataclasses.replace(questions(n), name=name) for name in ("one", "other")}
        for split, n in (("search", 900), ("selection", 100), ("test", 100))
    }
    plan = Plan(
        goals=tuple(Goal(name, "acc") for name in splits["search"]),
        members=(BASE, *variants),
        n_layers=n_layers,
        n_removed=n_layers // 4,
        rungs=(100, 300, 900),
        sizes={"search": 900, "selection": 100, "test": 100},
        max_trials=n_trials,
    )
    space = Space(n_layers, plan.n_removed, variants, ("task_arithmetic",))
    pool = MadeUpPool(MadeUpScores(splits, n_layers))
    times = [time.process_time()]

    def look(progress: Progress) -> None:
        if progress.last is not None and progress.n_trials % (n_trials // 10) == 0:
            times.append(time.process_time() - pool.seconds)

    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder)) as journal:
        make = partial(_searcher, "evolution", space, plan)
        Study(journal, pool, make, plan=plan, on_progress=look).run()
    tenths = [10_000 * (after - before) / n_trials for before, after in itertools.pairwise(times)]
    return {"layers": n_layers, "members": n_members, "trials": n_trials, "ms_a_trial": tenths}


def _searcher(
    name: str, space: Space, plan: Plan, objective: Any, references: Any, _: object
) -> Searcher:
    context = SearchContext(
        space=space,
        objective=objective,
        rungs=plan.rungs,
        max_trials=plan.max_trials,
        seed=0,
        references=references,
    )
    return make_searcher(SEARCHERS.get(name), context)


def paper_forecast(
    path: Path, max_trials: int | None = None, sizes: tuple[int, int] = (400, 14_042)
) -> dict[str, Any]:
    """What a search by evolution costs on the assumed GPU; every task as if it were MMLU.

    `sizes` are the examples for selection and test.
    """
    config, shape = load_config(path), SHAPES[path.stem]
    with tempfile.TemporaryDirectory() as folder:
        family = family_in_files(shape, ["base", *config.family.variants], config, Path(folder))
    rungs = config.budget.rungs
    counts = dict(zip(("search", "selection", "test"), (rungs[-1], *sizes), strict=True))
    names = [task.name for task in config.tasks]
    tasks = {split: [_like_mmlu(name, n) for name in names] for split, n in counts.items()}
    engine = Engine(family, cache_bytes=config.engine.cache_bytes)
    evaluator = Evaluator(engine, tasks, rungs=rungs)
    (n_removed,) = config.depths(family.n_layers)
    plan = Plan(
        goals=tuple(Goal(task.name, "acc") for task in config.tasks),
        members=family.members,
        n_layers=family.n_layers,
        n_removed=n_removed,
        rungs=rungs,
        sizes=counts,
        max_trials=max_trials or config.budget.max_trials,
    )
    space = Space(
        plan.n_layers,
        plan.n_removed,
        tuple(config.family.variants),
        config.merge,
        kinds=family.kinds,
        allowed=expressible(family),
        outer_variants=outer_variants(family),
    )
    head = 2 * shape["vocab_size"] * shape["hidden_size"] / FLOPS
    speed = Speed(2 * max(family.layer_parameters) / FLOPS, 5e-4, 1e-6, head, 0.02)
    pool = CountingPool(evaluator, speed)
    entry, trials, _ = forecast(plan, partial(_searcher, "evolution", space, plan), pool)
    for trial in trials:
        family.check(trial.tailoring)
    figures = entry.model_dump(include={"n_trials", "n_candidates", "layer_tokens"})
    if read := read_bytes(folder):
        raise SystemExit(f"{path}: {read:,} bytes of the members' files were read")
    state_bytes = max(work.n_bytes for work in pool.work.values())
    phases = {name: speed.seconds(work, 0) for name, work in pool.work.items()}
    memory = {"family": entry.family_bytes, "merged": entry.merged_bytes, "states": state_bytes}
    return figures | {"phases_s": phases, "gb": {k: n / 1e9 for k, n in memory.items()}}


def family_in_files(
    shape: dict[str, Any], members: list[str], config: Config, folder: Path
) -> Family:
    """A family of a shape; the members' files are all hole, and never read."""
    dtype = DTYPES[config.family.dtype]
    made = AutoConfig.for_model(**shape, tie_word_embeddings=False, dtype=dtype)
    skeleton = skeleton_of(made, dtype)
    names = skeleton.state_dict()
    filled = itertools.accumulate(2 * like.numel() for like in names.values())
    files = itertools.groupby(zip(filled, names.items(), strict=True), key=lambda one: one[0] >> 31)
    groups = [[item for _, item in group] for _, group in files]
    states: dict[str, dict[str, Tensor]] = {member: {} for member in members}
    for number, group in enumerate(groups):
        for member, state in states.items():
            state |= _hole(folder / f"{member}-{number}", dtype, group)
    return Family(made, Layout.of(skeleton), dtype, states, dict.fromkeys(members, "a hole"))


def read_bytes(folder: str) -> int:
    """Bytes of mapped files of a folder that are in this process's memory; Linux only."""
    smaps, found, inside = Path("/proc/self/smaps"), 0, False
    for line in smaps.read_text().splitlines() if smaps.exists() else ():
        key, *rest = line.split()
        if not key.endswith(":"):  # the beginning of a mapping; its file's name is at the end
            inside = folder in line
        elif inside and key == "Rss:":
            found += 1024 * int(rest[0])
    return found


def _hole(path: Path, dtype: torch.dtype, group: list[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors of some names and shapes, mapped from a file that is all hole."""
    n_bytes = sum(dtype.itemsize * like.numel() for _, like in group)
    path.touch()
    os.truncate(path, n_bytes)
    storage = torch.UntypedStorage.from_file(str(path), False, n_bytes)
    assert isinstance(storage, torch.UntypedStorage)
    start = 0
    found = {}
    for name, like in group:
        found[name] = torch.empty(0, dtype=dtype).set_(storage, start, like.shape, like.stride())
        start += like.numel()
    return found


def _like_mmlu(name: str, n: int) -> Task:
    """Questions of MMLU's lengths without examples, each with four choices of one token."""
    rng, like = np.random.default_rng(n), question(np.random.default_rng(0))
    choices = tuple((token,) for token in (5, 6, 7, 8))
    positions, texts = tuple((0, choice) for choice in range(4)), (like.answer,) * 4
    lengths = np.clip(rng.lognormal(4.4, 0.6, n), 25, 700).astype(int).tolist()
    passages = [Passage(tuple(rng.integers(9, 4096, each).tolist()), choices) for each in lengths]
    examples = [
        dataclasses.replace(like, passages=(each,), positions=positions, texts=texts)
        for each in passages
    ]
    origins = tuple((name, index) for index in range(n))
    return Task(name, ("acc", "gold_bits_per_byte"), tuple(examples), origins)


def text_of(found: dict[str, Any]) -> str:
    """The tables."""
    rows = [
        [str(one["layers"]), str(one["members"]), *(f"{ms:.1f}" for ms in one["ms_a_trial"])]
        for one in found["overhead"]
    ]
    n_trials = found["overhead"][0]["trials"]
    head = ["layers", "members", *(f"{tenth}/10" for tenth in range(1, 11))]
    lines = [
        told_of(found["machine"]),
        "Milliseconds of processor time a trial, beside evaluations, in each tenth of "
        f"{n_trials:,} trials; two tasks of 900 examples, three rungs, record counted:",
        table(head, rows),
        "Forecasts on a GPU whose speed is assumed "
        f"({found['flops']:.3g} operations a second), every task as if it were MMLU:",
    ]
    head = [
        "config",
        "trials",
        "G layer-tokens",
        "min of search",
        "min with members, selection and test",
    ]
    head += ["GB of members", "of merged layers", "of states"]
    rows = [
        [
            name,
            str(one["n_trials"]),
            f"{one['layer_tokens'] / 1e9:.2f}",
            f"{one['phases_s']['search'] / 60:.0f}",
            f"{sum(one['phases_s'].values()) / 60:.0f}",
            *(f"{one['gb'][key]:.1f}" for key in ("family", "merged", "states")),
        ]
        for name, one in found["forecasts"].items()
    ]
    return "\n\n".join([*lines, table(head, rows)])


if __name__ == "__main__":
    main()
