"""How time and memory grow: with candidates asked at once, examples, layers and variants.

Each point is a process of its own on a random Llama of hidden size 256 in float32; time is the
better of two evaluations, memory what the process held at most beyond what it held before. The
exponent is the slope of a line through the logarithms: 1 is linear, 0 is no growth.

    python benchmarks/growth.py --out benchmarks/results
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import keep, machine, peak_mib, prefix_share, table, told_of
from transformers import AutoModelForCausalLM, LlamaConfig

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Engine, Evaluator
from gptailor.engine.cpu.processor import keep_freed_pages
from gptailor.family.family import Family
from gptailor.family.layout import Layout
from gptailor.searchers.mutation import CHANGES, mutate
from gptailor.searchers.space import Space
from gptailor.tasks.multiple_choice import ChoiceExample
from gptailor.tasks.task import Passage, Task, TextSize

USUAL = {"candidates": 4, "examples": 50, "layers": 12, "variants": 3}
POINTS = {
    "candidates": (1, 2, 4, 8, 16, 32, 64),
    "examples": (50, 100, 200, 500, 1000, 2000),
    "layers": (6, 12, 18, 24, 30),
    "variants": (1, 2, 4, 8),
}
VOCABULARY = 4096


def main() -> None:
    """Run every point, fit the exponents, print the tables, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--point", help="measure one point and print it as JSON")
    parser.add_argument("--out", type=Path, default=None, help="folder for the results")
    asked = parser.parse_args()
    if asked.point:
        print(json.dumps(measured(**json.loads(asked.point))))
        return
    told: dict[str, Any] = {"machine": machine(), "usual": USUAL}
    told["growth"] = {
        name: [point(USUAL | {name: size}) for size in sizes] for name, sizes in POINTS.items()
    }
    keep(asked.out, "growth", told, text_of(told))


def point(sizes: dict[str, int]) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--point", json.dumps(sizes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return sizes | found


def measured(candidates: int, examples: int, layers: int, variants: int) -> dict[str, float]:
    """Time and memory of one evaluation of a parent and its mixed children."""
    keep_freed_pages()
    family = random_family(layers, variants)
    engine = Engine(family)
    started = time.perf_counter()
    evaluator = Evaluator(engine, {"search": [questions(examples)]})
    evaluator.tokens("search", 0, examples)
    packing = time.perf_counter() - started
    names = tuple(name for name in family.members if name != "base")
    space = Space(layers, layers // 4, names, ("task_arithmetic",), kinds=family.kinds, tied=True)
    group = a_generation(space, candidates)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far
    before, seconds = peak_mib(), []
    for _ in range(2):
        started = time.perf_counter()
        done = evaluator.evaluate([Job(one, examples) for one in group])
        seconds.append(time.perf_counter() - started)
    assert all(one.scores is not None for one in done)
    return {
        "seconds": min(seconds),
        "peak_mib": peak_mib() - before,
        "family_mib": family.nbytes / 2**20,
        "packing_seconds": packing,
        "layer_tokens": float(sum(one.layer_tokens for one in done)),
        "prefixes_left": 1 - prefix_share(group),
    }


def random_family(layers: int, variants: int) -> Family:
    """A base and variants with weights of their own."""
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )
    states = {}
    for seed, name in enumerate(("base", *(f"v{n}" for n in range(variants)))):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        layout = Layout.of(model)
        states[name] = {
            key: tensor.detach() for key, tensor in model.state_dict().items() if key != layout.head
        }
    paths = dict.fromkeys(states, "made at random")
    return Family(config=config, layout=layout, dtype=torch.float32, states=states, paths=paths)


def question(rng: np.random.Generator) -> ChoiceExample:
    """A question of 10 to 40 tokens with three choices of 1 to 4."""

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(int(t) for t in rng.integers(0, VOCABULARY, rng.integers(low, high + 1)))

    size = TextSize(n_tokens=1, n_characters=1, n_words=1, n_bytes=4)
    passage = Passage(tokens(10, 40), tuple(tokens(1, 4) for _ in range(3)))
    places = tuple((0, choice) for choice in range(3))
    return ChoiceExample((passage,), places, (0,), (size, size, size), size)


def questions(n: int) -> Task:
    """So many questions, always the same."""
    rng = np.random.default_rng(0)
    origins = tuple(("questions", index) for index in range(n))
    examples = tuple(question(rng) for _ in range(n))
    return Task("questions", ("acc", "gold_bits_per_byte"), examples, origins)


def a_generation(space: Space, n: int) -> list[Tailoring]:
    """A parent and its mixed children."""
    rng = np.random.default_rng(0)
    group = [space.random(rng)]
    while len(group) < n:
        made = mutate(space, group[0], rng, rates=dict.fromkeys(CHANGES, 1.0), late=0.75)
        if made is not None and made[0] not in group:
            group.append(made[0])
    return group


def exponent(points: list[dict[str, Any]], over: str, of: str) -> float:
    """The slope of ln(of) over ln(over)."""
    x, y = (np.log([max(one[key], 1e-9) for one in points]) for key in (over, of))
    return float(np.polyfit(x, y, 1)[0])


def text_of(told: dict[str, Any]) -> str:
    """The tables."""
    parts = [
        "# How time and memory grow",
        "",
        told_of(told["machine"]),
        "",
        "Where not said otherwise: "
        + ", ".join(f"{n} {name}" for name, n in told["usual"].items())
        + ".",
    ]
    keys = ("seconds", "layer_tokens", "peak_mib", "family_mib", "packing_seconds")
    for name, points in told["growth"].items():
        rows = [
            [
                str(one[name]),
                f"{one['seconds']:.2f}",
                f"{one['layer_tokens']:,.0f}",
                f"{one['peak_mib']:,.0f}",
                f"{one['family_mib']:,.0f}",
                f"{one['packing_seconds']:.2f}",
            ]
            for one in points
        ]
        slopes = [f"{exponent(points, name, key):.2f}" for key in keys]
        head = [name, "s", "layer-tokens", "peak MiB beyond the family", "family MiB", "packing s"]
        parts += ["", table(head, [*rows, ["exponent", *slopes]])]
    return "\n".join(parts)


if __name__ == "__main__":
    main()
