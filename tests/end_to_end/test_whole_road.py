"""From a family of models to one smaller model, through the command line alone."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from packages import run_python

from gptailor.cli.search import command as search
from gptailor.core.tailoring import Tailoring
from gptailor.record.entries import ForecastEntry

Job = Callable[..., Path]
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def apart(*words: object, cwd: Path) -> tuple[str, str]:
    """Run the program as a user would, in a process of its own; stdout and stderr."""
    command = [sys.executable, "-m", "gptailor", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=ENV, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_the_main_job_runs_from_check_to_report(
    job: Job, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    config = job()
    run, out = config.parent / "runs" / "tailor", tmp_path / "the result"

    def here(*words: object) -> None:
        code, _, told = run_command(*words)
        assert code == 0, told

    here("check", config)
    printed, told = apart("search", config, "--json", cwd=tmp_path)
    searched = json.loads(printed)
    assert told.startswith("loading 4 members and 2 tasks ...")
    assert re.search(
        r"expected: \d+ trials for a model of 4 of 6 layers, about \d+ s, [\d,]+ MiB", told
    )
    assert re.search(r"searching: 0/\d+ trials about \d+ s left", told)
    here("export", run, "-o", out)
    evaluated = run_python(None, "-m", "gptailor", "evaluate", out, "--run", run, folder=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    told = evaluated.stderr
    assert re.search(r"expected: 5 models on \d+ examples, [\d,]+ layer-tokens, about \d+ ", told)
    assert "evaluating base, model 1 of 5, on " in evaluated.stderr
    here("report", run)
    assert (run / "report.html").stat().st_size > 10_000
    assert len(Tailoring.load(run / "best.yaml").layers) == 4
    _hold_memory(searched)
    scored, exported = _reported(run), _evaluated(run)
    for task, metrics in scored.items():
        for metric, measured in metrics.items():
            told = exported[task].get(metric)
            if told is not None:  # lm-eval knows nothing of some of ours
                assert told["values"] == pytest.approx(measured["values"], abs=1e-3), metric


def _hold_memory(searched: Mapping[str, Any]) -> None:
    """A process of its own stays below the memory that was predicted, and not far."""
    assert set(searched["forecast"]) == set(ForecastEntry.model_fields)
    actual = searched["spent"]["peak_bytes"]
    assert actual <= searched["forecast"]["peak_bytes"] <= 1.3 * actual


def _reported(run: Path) -> dict[str, Any]:
    """What the engine scored for the result on the test split."""
    lines = (run / "record.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    (entry,) = (e for e in entries if e["kind"] == "test" and "number" in e)
    return dict(entry["scores"])


def _evaluated(run: Path) -> dict[str, Any]:
    """What lm-eval's own backend scored for the exported checkpoint on the same examples."""
    told = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    return dict(next(model for model in told["models"] if model["name"] == "result")["scores"])


@pytest.mark.slow
def test_a_search_killed_or_stopped_midway_goes_on_to_the_same_end(
    job: Job, tmp_path: Path
) -> None:
    budget = {"max_trials": 40, "n_examples": [4, 12], "finalists": 3}
    undisturbed, killed, stopped = (
        job(name, budget=budget) for name in ("undisturbed", "killed", "stopped")
    )
    script = Path(__file__).parent / "stopping.py"
    done = run_python(None, script, "SIGKILL", killed, "SIGINT", stopped, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(map(int, done.stdout.split())) == [-signal.SIGKILL, 130]
    told = (stopped.parent / "told.txt").read_text(encoding="utf-8")
    assert "run the same command to go on" in told
    assert "Traceback" not in told
    for config in (undisturbed, killed, stopped):
        search(config)
    assert _facts(undisturbed) == _facts(killed) == _facts(stopped)


def _facts(config: Path) -> list[dict[str, Any]]:
    """The record without times and without what tells of stops."""
    # what was lost is scored again with others beside it: what it shares, and so costs, differs
    times = ("elapsed", "seconds", "layer_tokens", "time", "created", "config")
    lines = (config.parent / "runs" / "tailor" / "record.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    measured = ("resumed", "truncated", "forecast", "spent")
    kept = [entry for entry in entries if entry["kind"] not in measured]
    return [{k: v for k, v in entry.items() if k not in times} for entry in kept]
