"""A whole search spread over processes: killed workers, other numbers of workers, the same end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptailor.cli import main

Make = Callable[..., Path]
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def search(config: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gptailor", "search", str(config), "--json"]
    return subprocess.run(command, env=ENV, capture_output=True, text=True, check=False)


def _facts(config: Path) -> list[dict[str, Any]]:
    """The record without times, costs and machines: what was asked, scored and chosen."""
    told = ("number", "name", "member", "proposals", "scores", "failure", "n_tried", "n_trials")
    lines = (config.parent / "runs" / "tailor" / "record.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    kinds = ("reference", "asked", "trial", "finalist", "chosen", "reported")
    kept = [entry for entry in entries if entry["kind"] in kinds]
    return [{"kind": e["kind"]} | {k: e[k] for k in told if k in e} for e in kept]


def _children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in listed.stdout.split()]


@pytest.mark.slow
def test_a_search_is_the_same_in_this_process_and_in_two_of_which_one_is_killed(
    job: Make,
) -> None:
    alone, spread = job("alone"), job("spread", workers=_local(2))
    assert search(alone).returncode == 0
    command = [sys.executable, "-m", "gptailor", "search", str(spread), "--json"]
    record = spread.parent / "runs" / "tailor" / "record.jsonl"
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=ENV, stdout=pipe, stderr=pipe, text=True) as process:
        killed = False
        while process.poll() is None and not killed:
            if record.exists() and b'"kind":"trial"' in record.read_bytes():
                workers = _children(process.pid)
                for worker in workers[:1]:
                    os.kill(worker, signal.SIGKILL)
                    killed = True
        out, told = process.communicate()
    assert process.returncode == 0, told
    assert killed
    assert "was lost (killed by SIGKILL)" in told
    assert json.loads(out)["number"] == _facts(alone)[-1].get("number")
    assert _facts(spread) == _facts(alone)


def _local(n_workers: object) -> dict[str, Any]:
    return {"name": "local", "options": {"n_workers": n_workers}}


@pytest.mark.parametrize(
    ("workers", "told"),
    [
        (_local(0), "workers.options.n_workers: must be a whole number of 1 or more, not 0"),
        (_local("two"), "workers.options.n_workers: must be a whole number of 1 or more"),
        (_local(5000), "workers.options.n_workers: 5000 processes are more than one machine runs"),
        (
            {"name": "local", "options": {"n_worker": 2}},
            "did you mean 'n_workers'? known: group_size, n_workers",
        ),
        ({"name": "ray", "options": {"address": "127.0.0.1:1"}}, "127.0.0.1:1 can't be reached"),
    ],
)
def test_workers_that_can_not_be_had_are_told_and_nothing_is_written(
    job: Make,
    workers: dict[str, Any],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if workers["name"] == "ray":
        pytest.importorskip("ray")
    config = job(workers=workers)
    for verb in ("check", "search"):
        monkeypatch.setattr(sys, "argv", ["gptailor", verb, str(config)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2
        faults = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(faults) == 1
        assert told in faults[0]
    assert not (config.parent / "runs").exists()
