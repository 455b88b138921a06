"""A worker pool of another package: the one of the how-to, word for word."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packages import install, run_python, write_module

from gptailor.core.plugins import WORKERS, Registry

PAGE = "how-to/add-a-worker-pool.md"
NAME = "my_pool:executor_pool"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the how-to's package, as pip would have installed it, and importable."""
    folder = tmp_path / "site"
    write_module(PAGE, folder / "my_pool.py")
    install(PAGE, folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("my_pool", None)


def test_it_is_found_by_both_names_and_its_options_are_checked(package: Path) -> None:
    installed = Registry(
        "worker pool",
        WORKERS.builtin,
        group="gptailor.workers",
        section="workers",
        reserved=("evaluator", "get_factory"),
    )
    assert installed.get("executor").__module__ == "my_pool"
    for name in ("executor", NAME):
        assert installed.problems(name, {"n_workers": 2}) == []
        assert installed.problems(name, {"n_workers": 0, "group_sise": 1}) == [
            "workers.options.n_workers: must be a whole number from 1 to 64, not 0",
            f"unknown option of worker pool {name} 'group_sise'; did you mean 'group_size'? known: "
            "n_workers, group_size",
        ]
        assert installed.defaults(name) == {"n_workers": 2, "group_size": 16}


def scores_of(config: Path) -> list[Any]:
    lines = (config.parent / "runs" / "tailor" / "record.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [entry["scores"] for entry in entries if entry["kind"] == "trial"]


@pytest.mark.slow
def test_a_search_in_its_workers_scores_the_same(package: Path, job: Callable[..., Path]) -> None:
    def run(verb: str, workers: dict[str, Any]) -> Path:
        budget = {"max_trials": 6, "n_examples": [4], "finalists": 2}
        config = job(str(workers["name"]), workers=workers, engine={"threads": 1}, budget=budget)
        done = run_python(package, "-m", "gptailor", verb, config)
        assert done.returncode == 0, done.stderr
        return config

    run("check", {"name": NAME})
    here = scores_of(run("search", {"name": "local"}))
    assert scores_of(run("search", {"name": "executor", "options": {"group_size": 2}})) == here
    assert len(here) == 6
