"""A long study on a tiny model: does memory stay flat, do trials stay as fast, is the record read?

Makes a family of four tiny Llamas and two tasks on the spot, runs one study of thousands of trials
with everything that a search has (engine, evolution, a record on the disk), and looks at the memory
of the process and at the time that trials take while it runs. Then reads the record back and
writes the report.

    python benchmarks/soak.py --trials 2000 --out benchmarks/results
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from common import keep, machine, table, told_of
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gptailor.app.assemble import assemble, open_study
from gptailor.config import load_config
from gptailor.forecast.memory import held_bytes
from gptailor.record.journal import RECORD, Journal, read_record
from gptailor.record.ranking import write_results
from gptailor.record.run_record import read_run
from gptailor.report import write_report
from gptailor.study import Progress

WORDS = ("Paris", "Rome", "gold", "iron", "two", "three", "seven", "add", "print", "symbol")
VARIANTS = ("math", "code", "chat")


def main() -> None:
    """Run the study, print what was seen, write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--from-trial", type=int, default=200, help="memory is compared from here")
    parser.add_argument("--out", type=Path, default=None, help="folder for the JSON and the table")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        told = soak(Path(scratch), asked.trials, asked.from_trial)
    keep(asked.out, "soak", told, text_of(told))


def soak(folder: Path, n_trials: int, from_trial: int) -> dict[str, Any]:
    """Run one study in a folder and tell what was seen."""
    assembly = assemble(load_config(make_job(folder, n_trials)))
    seen: list[dict[str, float]] = []

    def look(progress: Progress) -> None:
        if progress.last is not None and progress.n_trials % 100 == 0:
            here = {
                "trial": progress.n_trials,
                "seconds": progress.elapsed,
                "rss_bytes": held_bytes("cpu"),
            }
            seen.append(here)

    run = folder / "run"
    with Journal(run) as journal:
        study = open_study(assembly, journal, on_progress=look)
        _, chosen = study.run()
        write_results(run, chosen, study.front(), study.objective)
    done = len(study.trials)
    started = time.perf_counter()
    entries = read_record(run / RECORD)
    read_s = time.perf_counter() - started
    started = time.perf_counter()
    found = read_run(run)
    checked_s = time.perf_counter() - started
    started = time.perf_counter()
    page = write_report(run)
    report_s = time.perf_counter() - started
    assert len(found.trials) == done
    settled = [row for row in seen if row["trial"] >= from_trial]
    first, last = settled[0], settled[-1]
    middle = settled[len(settled) // 2]
    return {
        "trials": done,
        "candidates": len({trial.tailoring for trial in study.trials}),
        "rss_growth": last["rss_bytes"] / first["rss_bytes"] - 1,
        "rss_from_trial": first["trial"],
        "ms_per_trial_first_half": _ms_per_trial(first, middle),
        "ms_per_trial_second_half": _ms_per_trial(middle, last),
        "record_bytes": (run / RECORD).stat().st_size,
        "record_lines": len(entries),
        "record_read_s": read_s,
        "record_read_and_checked_s": checked_s,
        "report_s": report_s,
        "report_bytes": page.stat().st_size,
        "seen": seen,
        "machine": machine(),
    }


def _ms_per_trial(first: dict[str, float], last: dict[str, float]) -> float:
    return 1000 * (last["seconds"] - first["seconds"]) / max(1, last["trial"] - first["trial"])


def make_job(folder: Path, n_trials: int) -> Path:
    """Write four tiny members, two tasks and a config; the config's path."""
    members = make_members(folder / "members")
    (folder / "tasks").mkdir()
    lines = [
        {"query": f"Question {n}: which?", "choices": [" gold", " iron"], "gold": n % 2}
        for n in range(60)
    ]
    which = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}],
    }
    write_task(folder / "tasks", "which", lines, which)
    texts = [{"text": f"{n}: " + " ".join(WORDS[n % 7 :])} for n in range(60)]
    rolling = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    write_task(folder / "tasks", "texts", texts, rolling)
    config = {
        "family": {
            "base": str(members["base"]),
            "variants": {name: str(members[name]) for name in VARIANTS},
            "dtype": "float32",
        },
        "remove": 2,
        "tasks": [
            {"name": "./tasks/which.yaml", "metric": "acc"},
            {"name": "./tasks/texts.yaml", "metric": "bits_per_byte"},
        ],
        "budget": {"max_trials": n_trials, "n_examples": [4, 12, 36]},
        # kept merged layers are bounded by a setting; here the bound is reached early
        "engine": {"threads": 1, "cache_bytes": 2**20},
    }
    path = folder / "tailor.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def make_members(folder: Path) -> dict[str, Path]:
    """A base and three variants: 8 layers, hidden 32, every weight drawn at random."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
    )
    places = {}
    for seed, name in enumerate(("base", *VARIANTS)):
        model = LlamaForCausalLM(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        places[name] = folder / name
        model.save_pretrained(places[name])
        fast.save_pretrained(places[name])
    return places


def write_task(folder: Path, name: str, lines: list[dict[str, Any]], task: dict[str, Any]) -> None:
    """One task file and its data."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    known = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"all": f"{name}.jsonl"}},
        "test_split": "all",
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(known | task), encoding="utf-8")


def text_of(told: dict[str, Any]) -> str:
    """The tables."""
    mib = 2**20
    rows = [
        ("trials", f"{told['trials']:,} ({told['candidates']:,} candidates)"),
        (
            f"memory, from trial {told['rss_from_trial']} to the last",
            f"{told['rss_growth']:+.1%}, {told['seen'][-1]['rss_bytes'] / mib:,.0f} MiB at the end",
        ),
        (
            "time a trial, first and second half",
            f"{told['ms_per_trial_first_half']:.1f} ms, {told['ms_per_trial_second_half']:.1f} ms",
        ),
        ("record", f"{told['record_bytes'] / mib:.1f} MiB, {told['record_lines']:,} lines"),
        ("record read back", f"{told['record_read_s']:.2f} s"),
        ("read back and every line checked", f"{told['record_read_and_checked_s']:.2f} s"),
        ("report", f"{told['report_s']:.1f} s, {told['report_bytes'] / mib:.2f} MiB"),
    ]
    seen = [
        [f"{row['trial']:.0f}", f"{row['seconds']:.1f}", f"{row['rss_bytes'] / mib:.0f}"]
        for row in told["seen"]
    ]
    measured = table(["what", "measured"], [list(row) for row in rows])
    return "\n\n".join(
        [told_of(told["machine"]), measured, table(["trial", "seconds", "MiB"], seen)]
    )


if __name__ == "__main__":
    main()
