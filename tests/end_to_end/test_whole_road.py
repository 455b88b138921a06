"""From a family of models to one smaller model, through the command line alone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from gptailor.cli.search import command as search
from gptailor.tailoring import Tailoring

Job = Callable[..., Path]
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def gptailor(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the program as a user would, in a process of its own."""
    command = [sys.executable, "-m", "gptailor", *(str(word) for word in words)]
    return subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_main_job_runs_from_check_to_report(
    job: Job, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    config = job()
    run, out = config.parent / "runs" / "tailor", tmp_path / "the result"
    for verb in ("check", "search"):  # whose processes are started elsewhere
        code, _, told = run_command(verb, config)
        assert code == 0, told
    for words in (
        ("export", run, "-o", out),
        ("evaluate", out, "--run", run),
        ("report", run),
    ):
        done = gptailor(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (run / "report.html").stat().st_size > 10_000
    assert len(Tailoring.load(run / "best.yaml").layers) == 4
    searched, exported = _reported(run), _evaluated(run)
    for task, metrics in searched.items():
        for metric, measured in metrics.items():
            told = exported[task].get(metric)
            if told is not None:  # lm-eval knows nothing of some of ours
                assert told["values"] == pytest.approx(measured["values"], abs=1e-3), metric


def _reported(run: Path) -> dict[str, Any]:
    """What the engine scored for the result on the report part."""
    lines = (run / "record.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    (entry,) = (e for e in entries if e["kind"] == "reported" and e["name"] == "result")
    return dict(entry["scores"])


def _evaluated(run: Path) -> dict[str, Any]:
    """What lm-eval's own backend scored for the exported checkpoint on the same examples."""
    told = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return dict(next(model for model in told["models"] if model["name"] == "result")["scores"])


@pytest.mark.slow
def test_a_search_killed_midway_goes_on_to_the_same_end(job: Job, tmp_path: Path) -> None:
    undisturbed, killed = job("undisturbed"), job("killed")
    search(undisturbed)
    with _started(killed, tmp_path) as process:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    search(killed)
    assert _facts(killed) == _facts(undisturbed)


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_says_how_to_go_on(job: Job, tmp_path: Path) -> None:
    config = job(budget={"max_trials": 100, "n_examples": [4, 24]})
    with _started(config, tmp_path) as process:
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
    assert process.returncode == 130
    assert "run the same command to go on" in told
    assert "Traceback" not in told


@contextmanager
def _started(config: Path, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a search as a user would; it is handed over once a trial stands in its record."""
    record = config.parent / "runs" / "tailor" / "record.jsonl"
    command = [sys.executable, "-m", "gptailor", "search", str(config)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=cwd, env=ENV, stderr=pipe, text=True) as process:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.01)
            if record.exists() and b'"kind":"trial"' in record.read_bytes():
                break
        yield process


def _facts(config: Path) -> list[dict[str, Any]]:
    """The record without times and without what tells of stops."""
    # what was lost is scored again with others beside it: what it shares, and so costs, differs
    times = ("elapsed", "seconds", "layer_tokens", "time", "created", "config")
    lines = (config.parent / "runs" / "tailor" / "record.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    measured = ("resumed", "repaired", "forecast", "spent")
    kept = [entry for entry in entries if entry["kind"] not in measured]
    return [{k: v for k, v in entry.items() if k not in times} for entry in kept]
