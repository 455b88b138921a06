"""A whole search spread over processes: killed workers, other numbers of workers, the same end."""

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from gptailor.app.assemble import ConfigEvaluatorFactory, assemble, open_study
from gptailor.cli import main
from gptailor.config import load_config
from gptailor.core.plugins import WORKERS
from gptailor.errors import ConfigError
from gptailor.record.journal import Journal
from gptailor.study import Progress

pytestmark = pytest.mark.slow

Make = Callable[..., Path]
BRIEF: dict[str, Any] = {"budget": {"max_trials": 12, "n_examples": [4, 8], "finalists": 2}}


def _search_here(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gptailor", "search", str(config)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


def _facts(config: Path) -> list[dict[str, Any]]:
    """The record without times, costs and machines: what was asked, scored and chosen."""
    told = ("number", "name", "member", "proposals", "scores", "failure", "n_tried", "n_trials")
    told += ("searched", "refitted", "calibration", "tailoring")
    lines = (config.parent / "runs" / "tailor" / "record.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    kinds = ("reference", "asked", "trial", "finalist", "refits", "refitted", "chosen", "test")
    kept = [entry for entry in entries if entry["kind"] in kinds]
    return [{"kind": e["kind"]} | {k: e[k] for k in told if k in e} for e in kept]


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in listed.split()]


def test_a_search_is_the_same_in_this_process_and_in_two_of_which_one_is_killed(
    job: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refit = BRIEF | {
        "repair": "refit",
        "calibration": {"n_tokens": 3000},
    }  # each worker fits its own
    alone, spread = job("alone", **refit), job("spread", workers=_local(2), **refit)
    _search_here(alone, monkeypatch)
    before, killed = set(_children(os.getpid())), []

    def kill_one(progress: Progress) -> None:
        if progress.last is not None and not killed:
            killed.append(min(set(_children(os.getpid())) - before))
            os.kill(killed[0], signal.SIGKILL)

    assembly = assemble(load_config(spread))
    assembly.family.fitted.look_in(spread.parent / "runs" / "tailor" / "fitted")
    with (
        closing(assembly.pool()) as pool,
        Journal(spread.parent / "runs" / "tailor") as journal,
    ):
        number, _ = open_study(assembly, journal, on_progress=kill_one, pool=pool).run()
    assert killed
    assert any("was lost (killed by SIGKILL)" in told for told in caplog.messages)
    assert set(_children(os.getpid())) == before
    assert number == _facts(alone)[-1].get("number")
    assert _facts(spread) == _facts(alone)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray's
def test_a_search_on_ray_is_the_same_as_in_this_process(
    job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    workers = {"name": "ray", "options": {"address": "local", "n_workers": 1}}
    alone, spread = job("alone", **BRIEF), job("spread", workers=workers, **BRIEF)
    for config in (alone, spread):
        _search_here(config, monkeypatch)
    assert _facts(spread) == _facts(alone)


def test_a_worker_that_reads_other_files_is_refused(job: Make) -> None:
    """As on a machine whose copy of a member or a task is another."""
    assembly = assemble(load_config(job(**BRIEF)))
    factory = assembly.evaluator_factory()
    facts = {what: fact for what, fact in factory.facts.items() if "math" in what}
    assert len(facts) == 1
    other = ConfigEvaluatorFactory(
        factory.config, {**factory.facts, **dict.fromkeys(facts, "0" * 16)}
    )
    with pytest.raises(ConfigError, match=r"the digest of member math is .* but 0000") as caught:
        other(device="cpu", threads=1)
    assert len(caught.value.problems) == 1


def _local(n_workers: object) -> dict[str, Any]:
    return {"name": "local", "options": {"n_workers": n_workers}}


def test_ray_that_is_not_installed_is_told_with_the_extra_that_brings_it(
    job: Make, monkeypatch: pytest.MonkeyPatch, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setattr(WORKERS, "_loaded", {})
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("ray_pool", "cluster"):
        monkeypatch.delitem(sys.modules, f"gptailor.workers.ray.{name}", raising=False)
    code, _, told = run_command("check", job(workers="ray"))
    assert code == 2
    assert "needs a library that is not installed (ray); run: pip install 'gptailor[ray]'" in told


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
        problems = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(problems) == 1
        assert told in problems[0]
    assert not (config.parent / "runs").exists()
