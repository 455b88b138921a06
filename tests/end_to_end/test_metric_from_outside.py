"""A metric of somebody else's package: the one of the how-to, word for word."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packages import install, run_python, shown, write_module

from gptailor.core.metrics import Metric, ScoredExample, ScoredText

PAGE = "how-to/add-a-metric.md"
PLACE = "my_metrics:margin"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with the module of the how-to, not installed."""
    write_module(PAGE, tmp_path / "site" / "my_metrics.py")
    return tmp_path / "site"


@pytest.fixture
def installed(package: Path) -> Path:
    """The same, with what an installation makes of its pyproject.toml."""
    install(PAGE, package)
    return package


def run(site: Path | None, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own, with the package or without it."""
    return run_python(site, "-m", "gptailor", *words)


def done(site: Path | None, *words: object) -> str:
    finished = run(site, *words)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def write(job: Callable[..., Path], metric: str) -> Path:
    return job(
        tasks=[{"name": "./tasks/which.yaml", "metric": metric}],
        budget={"max_trials": 6, "n_examples": [4, 8], "finalists": 2},
    )


def entries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", [PLACE, "margin"])
def test_it_is_searched_resumed_reported_exported_and_evaluated(
    name: str, installed: Path, job: Callable[..., Path], tmp_path: Path
) -> None:
    config = write(job, name)
    folder, model = config.parent / "runs" / "tailor", tmp_path / "model"
    done(installed, "search", config)
    header = entries(folder)[0]
    (goal,) = header["goals"]
    assert (goal["metric"], goal["proxy"]) == (name, name)
    assert header["metrics"][name]["higher_is_better"] is True
    n_lines = len(entries(folder))
    if name == PLACE:  # a finished run goes on: nothing is left to do
        done(installed, "search", config)
        assert len(entries(folder)) >= n_lines
    assert len([one for one in entries(folder) if one["kind"] == "trial"]) == 6
    # a reader that has not the package
    done(None, "report", folder)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{name} ↑" in page
    assert "how far the gold choice is ahead" in page
    done(None, "export", folder, "-o", model)
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "how far the gold choice is ahead of the best other one; higher is better" in card
    # lm-eval's backend, its log-likelihoods put through the metric
    added = ("--config", config) if name == PLACE else ()
    refused = run(None, "evaluate", model, "--run", folder)
    assert refused.returncode == 2
    assert f"the metric '{name}'" in refused.stderr
    done(installed, "evaluate", model, "--run", folder, *added)
    told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    theirs = next(one for one in told["models"] if one["name"] == "result")["scores"]
    ours = [e for e in entries(folder) if e["kind"] == "test" and "number" in e]
    measured = ours[-1]["scores"]["which"][name]["values"]
    assert theirs["which"][name]["values"] == pytest.approx(measured, abs=1e-3)
    if name == PLACE:
        done(None, "report", folder)


def test_what_is_no_metric_is_told_before_anything_is_loaded(
    package: Path, job: Callable[..., Path]
) -> None:
    told = {
        metric: run(package, "check", write(lambda m=metric, **keys: job(m, **keys), metric)).stderr
        for metric in ("my_metric:margin", "my_metrics:margins", "my_metrics:_margin", "margn")
    }
    assert (
        "tasks[0].metric: metric 'my_metric:margin': there is no module" in told["my_metric:margin"]
    )
    assert "my_metrics has no such attribute" in told["my_metrics:margins"]
    assert "must be a gptailor Metric with a measure" in told["my_metrics:_margin"]
    assert "unknown metric 'margn'" in told["margn"]


def test_its_number_by_hand() -> None:
    space: dict[str, Any] = {}
    exec(shown(PAGE, "python")[0], space)
    margin = space["margin"]
    assert isinstance(margin, Metric)
    assert margin.measure is not None
    texts = (ScoredText(-6.0, False, 2, 3, 1, 3), ScoredText(-4.0, True, 1, 4, 1, 4))
    assert margin.measure(ScoredExample("multiple_choice", texts, (1,))) == pytest.approx(1.0)
    assert margin.measure(ScoredExample("multiple_choice", texts, (0,))) == pytest.approx(-1.0)
