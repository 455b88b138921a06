"""How much of what a cut lost a healing gives back, on texts and questions that are unseen.

A finished run's result is exported as it was searched, without its repair and with it, and the
latter is healed with the defaults of ``gptailor heal`` on nine tenths of the texts. All of them and
the whole member that is the teacher are scored by lm-eval, as ``gptailor evaluate`` scores them, on
the texts left out and on questions. The same command goes on after a stop.

    python benchmarks/heal.py --run RUN --teacher MEMBER --texts FILE --tasks FOLDER --out FOLDER
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import keep, machine, table, told_of

from gptailor.app.export_run import export
from gptailor.app.heal_model import heal
from gptailor.app.inputs import load_members, load_tasks
from gptailor.app.settings import recorded_config
from gptailor.core.repair import without_repair
from gptailor.core.statistics import samples
from gptailor.core.trial import Measurement, Scores
from gptailor.evaluation.side_by_side import open_finished
from gptailor.export.options import ExportOptions
from gptailor.family import Family
from gptailor.family.empty_model import model_around
from gptailor.heal.distillation import Training
from gptailor.record.run_record import read_run
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model
from gptailor.tasks.splits import TaskSplits

NAMES = ("arc_easy", "arc_challenge", "commonsenseqa", "openbookqa", "piqa", "socialiqa", "mmlu")
MODELS = ("cut", "repaired", "healed")
EVERY = 10  # one text in so many is not trained on
N_RESAMPLES = 2000


def main(words: Sequence[str] | None = None) -> None:
    """Export, heal, score, and make the table."""
    asked = _asked(words)
    torch.set_num_threads(asked.threads)
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    train, unseen = _divided(asked.texts, out, asked.n_unseen)
    config = recorded_config(read_run(asked.run))
    one = {asked.teacher: config.family.variants[asked.teacher]}
    family = load_members(
        config.model_copy(update={"family": config.family.model_copy(update={"variants": one})})
    )
    specs: list[Mapping[str, Any]] = [
        {
            "name": str(asked.tasks.resolve() / f"{name}_calib.yaml"),
            "metric": "gold_bits_per_byte",
            "limit": 4,
            "test_task": str(asked.tasks.resolve() / f"{name}_dev.yaml"),
            "test_limit": asked.questions,
        }
        for name in asked.names
    ]
    text = {"name": str(train), "metric": "bits_per_byte", "limit": 4, "test_task": str(unseen)}
    tasks = load_tasks([*specs, text], family)
    _export(asked.run, out)
    path = out / "scores.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in (asked.teacher, "cut", "repaired", "healing", "healed"):
        if name in known:
            continue
        started, cpu = time.perf_counter(), time.process_time()
        if name == "healing":
            found: Any = _heal(asked, train, out)
        else:
            print(f"scoring {name} ...", flush=True)
            found = _plain(_scored(name, family, tasks, out, asked.teacher))
        spent = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
        known[name] = {"found": found, **{key: round(value, 1) for key, value in spent.items()}}
        path.write_text(json.dumps(known))
    rows = _rows(known, asked.teacher)
    told = {
        "teacher": asked.teacher,
        "healing": known["healing"],
        "rows": rows,
        "n_questions": asked.questions * len(asked.names),
        "n_texts": asked.n_unseen,
        "threads": asked.threads,
        "machine": machine(),
    }
    keep(out, "heal", told, _text(told))


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run with a repair")
    parser.add_argument("--teacher", required=True, help="a variant of the run")
    parser.add_argument("--texts", type=Path, nargs="+", required=True, help="JSON lines")
    parser.add_argument("--tasks", type=Path, required=True, help="NAME_calib and NAME_dev .yaml")
    parser.add_argument("--names", nargs="*", default=NAMES)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=40, help="of a task")
    parser.add_argument("--n-unseen", type=int, default=300, help="texts that are scored")
    parser.add_argument("--tokens", type=int, default=Training().n_tokens, help="trained on")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args(words)


def _divided(files: Sequence[Path], out: Path, n_unseen: int) -> tuple[Path, Path]:
    """Write texts to train on and others; equal ones are all on one side."""
    texts = dict.fromkeys(
        json.loads(line)["text"] for file in files for line in file.open(encoding="utf-8")
    )
    paths = out / "train.jsonl", out / "unseen.jsonl"
    parts = [t for i, t in enumerate(texts) if i % EVERY], [*texts][::EVERY][:n_unseen]
    for path, part in zip(paths, parts, strict=True):
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in part))
    return paths


def _export(run: Path, out: Path) -> None:
    result = read_run(run).result
    assert result is not None, "the run has ended"
    (out / "cut.yaml").write_text(without_repair(result).to_yaml(), encoding="utf-8")
    for name, tailoring in (("repaired", None), ("cut", out / "cut.yaml")):
        if not (out / name).exists():
            options = ExportOptions.of("hf", out / name)
            export(run, out / name, options, tailoring=tailoring)


def _heal(asked: argparse.Namespace, train: Path, out: Path) -> dict[str, Any]:
    facts = heal(
        out / "repaired",
        [train],
        asked.teacher,
        out / "healed",
        training=Training(n_tokens=asked.tokens),
        run=asked.run,
        on_message=lambda text: print(text, flush=True),
        on_step=lambda step, steps: (
            print(f"{step}/{steps}", flush=True) if step % 20 == 0 else None
        ),
    )
    plain = facts.to_plain()
    return {key: plain[key] for key in ("training", "before", "after", "teachers", "given_back")}


def _scored(
    name: str, family: Family, tasks: Mapping[str, TaskSplits], out: Path, teacher: str
) -> Scores:
    if name == teacher:
        live = model_around(family.config, family.states[teacher], family.dtype)
        tokenizer = family.tokenizer
    else:
        live, tokenizer = open_finished(family, out / name)
    return evaluate_model(live, tasks, tokenizer=tokenizer, max_length=2048, batch_size=16)


def _plain(scores: Scores) -> dict[str, Any]:
    """Task to metric, numbers of the examples and their weights."""
    return {
        task: {
            metric: {"values": list(one.values), "weights": one.weights and list(one.weights)}
            for metric, one in metrics.items()
            if metric in ("gold_bits_per_byte", "bits_per_byte")
        }
        for task, metrics in scores.tasks.items()
    }


def _rows(known: Mapping[str, Any], teacher: str) -> list[dict[str, Any]]:
    """Bits of each model on questions and on texts, and what is given back, with intervals."""
    rows = []
    for metric, what in (("gold_bits_per_byte", "questions"), ("bits_per_byte", "texts")):
        drawn = []
        found = {n: known[n]["found"] for n in (teacher, *MODELS)}
        tasks = [task for task, metrics in found[teacher].items() if metric in metrics]
        for task in tasks:
            each = [found[name][task][metric] for name in found]
            measured = [
                Measurement(metric, tuple(one["values"]), one["weights"] and tuple(one["weights"]))
                for one in each
            ]
            drawn.append(samples(measured, N_RESAMPLES, np.random.default_rng(0)))
        means = np.mean(np.array(drawn), axis=0)  # (models, 1 + resamples)
        whole, cut, repaired, healed = means
        shares = {
            "repair": (cut - repaired) / (cut - whole),
            "healing": (repaired - healed) / (repaired - whole),
            "both": (cut - healed) / (cut - whole),
        }
        rows.append(
            {
                "what": what,
                "bits": dict(zip(found, (float(m[0]) for m in means), strict=True)),
                "given_back": {
                    key: [float(s[0]), *np.quantile(s[1:], [0.025, 0.975]).tolist()]
                    for key, s in shares.items()
                },
            }
        )
    return rows


def _text(told: Mapping[str, Any]) -> str:
    head = ["bits per byte of unseen", f"{told['teacher']}, whole", *MODELS]
    head += ["given back by the repair", "by healing, of the rest", "by both"]
    lines = [
        [
            row["what"],
            *(f"{bits:.3f}" for bits in row["bits"].values()),
            *(f"{v:.0%} [{low:.0%}, {high:.0%}]" for v, low, high in row["given_back"].values()),
        ]
        for row in told["rows"]
    ]
    plan, spent = told["healing"]["found"]["training"], told["healing"]
    return "\n\n".join(
        [
            "# What healing gives back",
            told_of(told["machine"]),
            f"{plan['n_tokens']:,} tokens, rank {plan['rank']}, learning rate "
            f"{plan['learning_rate']:g}, {plan['batch_tokens']:,} tokens a step. It "
            f"took {spent['seconds'] / 60:.0f} minutes, {spent['cpu'] / 60:.0f} of them on the "
            f"processor, with {told['threads']} threads. {told['n_questions']} questions (bits of "
            f"the gold answer, mean over the tasks) and {told['n_texts']} texts; intervals are "
            "95 %, examples drawn anew in pairs.",
            table(head, lines),
        ]
    )


if __name__ == "__main__":
    main()
