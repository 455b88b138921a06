"""Records of studies that never ran: plausible, seeded, written by hand."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.core.trial import Measurement, Scores
from gptailor.report import write_report

TASKS = {"capitals": "acc", "stories": "acc", "python": "bits_per_byte"}


@dataclass(frozen=True)
class Sketch:
    """What a made-up study is like."""

    n_layers: int = 30
    remove: int = 7
    variants: tuple[str, ...] = ("math", "code", "common")
    tasks: Mapping[str, str] = None  # type: ignore[assignment]  # TASKS when None
    n_trials: int = 84
    rungs: tuple[int, ...] = (3, 9, 27)
    failing: float = 0.04
    ends: bool = True
    reports: bool = True
    evaluates: bool = True
    seed: int = 0

    @property
    def members(self) -> tuple[str, ...]:
        return (BASE, *self.variants)

    @property
    def metrics(self) -> Mapping[str, str]:
        return TASKS if self.tasks is None else self.tasks


def random_tailoring(sketch: Sketch, rng: np.random.Generator) -> Tailoring:
    kept = np.sort(rng.permutation(sketch.n_layers)[: sketch.n_layers - sketch.remove])
    layers = []
    for layer in (int(position) for position in kept):
        n_sources = min(int(rng.choice([0, 0, 1, 2, 3])), len(sketch.variants))
        chosen = [str(name) for name in rng.permutation(sketch.variants)[:n_sources]]
        sources = tuple(Source(name, layer) for name in chosen) or (Source(BASE, layer),)
        method, params = None, ()
        if len(sources) > 1:
            method = str(rng.choice(["task_arithmetic", "linear"]))
            scale = round(float(rng.uniform(0.2, 0.9)), 2)
            params = (("scale", scale),) if method == "task_arithmetic" else ()
        layers.append(LayerSpec(sources, method, params))
    return Tailoring(tuple(layers))


def random_scores(
    sketch: Sketch, quality: float, n_examples: int, rng: np.random.Generator
) -> Scores:
    tasks = {}
    for task, metric in sketch.metrics.items():
        bits = tuple(float(x) for x in rng.gamma(8.0, (1.6 - quality) / 8.0, n_examples))
        measured = {"gold_bits_per_byte": Measurement("gold_bits_per_byte", bits)}
        if metric == "acc":
            right = tuple(float(x) for x in rng.random(n_examples) < quality)
            measured["acc"] = Measurement("acc", right)
        else:
            weights = tuple(float(50 + 37 * example % 350) for example in range(n_examples))
            measured[metric] = Measurement(metric, bits, weights)
        tasks[task] = measured
    return Scores(tasks)


def header_of(sketch: Sketch) -> dict[str, Any]:
    return {
        "kind": "header",
        "format": "gptailor-record/1",
        "created": "2026-01-02T03:04:05+0000",
        "config": {
            "family": {
                "base": {"path": "smol"},
                "variants": {v: {"path": v} for v in sketch.variants},
            },
            "remove": sketch.remove,
            "tasks": [{"name": t, "metric": m} for t, m in sketch.metrics.items()],
            "search": {"name": "evolution", "options": {}},
            "seed": sketch.seed,
        },
        "versions": {"gptailor": "0.1.0", "torch": "2.13.0", "smac": None},
        "machine": {"cpu": "Some CPU", "threads": 2, "device": "cpu", "dtype": "bfloat16"},
        "seed": sketch.seed,
        "family": {
            "members": list(sketch.members),
            "sources": {
                BASE: "SmolLM2-135M-Instruct",
                **{name: f"./adapters/{name} (LoRA)" for name in sketch.variants},
            },
            "n_layers": sketch.n_layers,
            "parameters": 28_311_552 + 1000 + 3_540_096 * sketch.n_layers,
            "layer_parameters": [3_540_096] * sketch.n_layers,
            "nbytes": 300_000_000,
            "notes": ["base: weights of type Q4_1 were turned into bfloat16"],
            "digests": {name: "0123456789abcdef" for name in sketch.members},
        },
        "remove": sketch.remove,
        "goals": [
            {"task": t, "metric": m, "weight": 1.0, "proxy": "gold_bits_per_byte"}
            for t, m in sketch.metrics.items()
        ],
        "rungs": list(sketch.rungs),
        "tasks": {
            task: {
                "search": sketch.rungs[-1],
                "selection": 20,
                "test": 50,
                "notes": [],
                "digest": "ab",
            }
            for task in sketch.metrics
        },
    }


def record_of(sketch: Sketch) -> list[dict[str, Any]]:
    rng = np.random.default_rng(sketch.seed)
    lines = [header_of(sketch)]
    for member in sketch.members:
        scores = random_scores(sketch, 0.75, sketch.rungs[-1], rng)
        lines.append(
            {"kind": "reference", "member": member, "scores": scores.to_plain(), "seconds": 1}
        )
    quality = 0.3
    tops: list[tuple[float, int]] = []
    for number in range(sketch.n_trials):
        rung = int(rng.choice(len(sketch.rungs), p=_odds(len(sketch.rungs))))
        is_last = sketch.ends and number == sketch.n_trials - 1  # there is one to be chosen
        rung = len(sketch.rungs) - 1 if is_last else rung
        n_examples = sketch.rungs[rung]
        asked = {
            "number": number,
            "tailoring": random_tailoring(sketch, rng).to_plain(),
            "n_examples": n_examples,
            "origin": str(rng.choice(["random", "swap of 3f2a", "crossover", "promoted"])),
        }
        lines.append({"kind": "asked", "proposals": [asked]})
        quality = min(quality + 0.35 / max(sketch.n_trials, 1) * rng.random() * 2, 0.7)
        told = {"kind": "trial", "number": number, "seconds": 0.4}
        told["layer_tokens"] = int(n_examples * rng.integers(2000, 9000))
        if rng.random() < sketch.failing and not is_last:
            told["failure"] = "out of memory: 2.1 GiB asked for, 0.3 GiB free, at batch size 1"
        else:
            mine = float(np.clip(quality + rng.normal(0, 0.08), 0.02, 0.95))
            told["scores"] = random_scores(sketch, mine, n_examples, rng).to_plain()
            if rung == len(sketch.rungs) - 1:
                tops.append((mine, number))
        told["elapsed"] = round(3.1 * (number + 1), 2)
        lines.append(told)
    return lines + (_ending(sketch, [n for _, n in sorted(tops)[::-1]], rng) if sketch.ends else [])


def _odds(n_rungs: int) -> list[float]:
    odds = np.array([0.5**rung for rung in range(n_rungs)])
    return list(odds / odds.sum())


def _ending(sketch: Sketch, tops: Sequence[int], rng: np.random.Generator) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = [{"kind": "resumed", "time": "2026", "elapsed": 100.0}]
    base = random_scores(sketch, 0.75, 20, rng).to_plain()
    lines.append({"kind": "finalist", "member": BASE, "scores": base})
    for number in tops[:5]:
        scores = random_scores(sketch, 0.62, 20, rng).to_plain()
        lines.append({"kind": "finalist", "number": number, "scores": scores})
    reason = "lowest loss of 5 finalists on examples the search did not see"
    lines.append(
        {"kind": "chosen", "number": tops[0], "n_tried": sketch.n_trials, "reason": reason}
    )
    if sketch.reports:
        for name in (*sketch.members, "result"):
            scores = random_scores(sketch, 0.65 if name == "result" else 0.75, 50, rng)
            lines.append({"kind": "reported", "name": name, "scores": scores.to_plain()})
    return lines


def evaluation_of(sketch: Sketch) -> dict[str, Any]:
    rng = np.random.default_rng(sketch.seed + 1)
    models = []
    for name in (*sketch.members, "result"):
        scores = random_scores(sketch, 0.66 if name == "result" else 0.75, 50, rng)
        parameters = 109_000_000 if name == "result" else 134_515_008
        plain = scores.to_plain()
        models.append({"name": name, "path": "x", "parameters": parameters, "scores": plain})
    return {
        "format": "gptailor-evaluation/1",
        "split": "test",
        "models": models,
        "versions": {"lm_eval": "0.4.13"},
        "n_resamples": 2000,
        "backend": "lm-eval hf",
    }


def write_lines(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "record.jsonl").write_text(text, encoding="utf-8")


def write_run(folder: Path, sketch: Sketch) -> Path:
    write_lines(folder, record_of(sketch))
    if sketch.evaluates and sketch.ends:
        text = json.dumps(evaluation_of(sketch))
        (folder / "evaluation.json").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Make a run's folder from a `Sketch`'s fields."""
    return lambda **fields: write_run(tmp_path / "run", Sketch(**fields))


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Make a run's folder that is only read: each name once."""
    root, made = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def make(name: str, **fields: Any) -> Path:
        if name not in made:
            made[name] = write_run(root / str(len(made)), Sketch(**fields))
            write_report(made[name])
        return made[name]

    return make
