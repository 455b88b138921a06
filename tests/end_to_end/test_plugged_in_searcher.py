"""A searcher from another package: the very code of the how-to, in a package made on the spot."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packages import install, run_python, write_module
from studies import HEADER, PLAN, SPACE, FormulaPool

from gptailor.core.objective import Objective
from gptailor.core.plugins import SEARCHERS, Registry
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Scores
from gptailor.record.journal import Journal
from gptailor.searchers.searcher import SearchContext, Searcher, make_searcher
from gptailor.study import Study

PAGE = "how-to/add-a-searcher.md"
PLACE = "tailor_hills:hill_climbing"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the how-to's package, installed as pip would have, and importable."""
    folder = tmp_path / "site"
    write_module(PAGE, folder / "tailor_hills.py")
    install(PAGE, folder)
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("tailor_hills", None)


def study(registry: Registry, name: str, folder: Path) -> tuple[list[Tailoring], int]:
    """Run a small study; the tailorings tried, and the number of the chosen trial."""

    def make(objective: Objective, _: Mapping[str, Scores], __: object) -> Searcher:
        context = SearchContext(SPACE, objective, PLAN.rungs, PLAN.max_trials, seed=3)
        return make_searcher(registry.load(name), context, {"neighbours": 5})

    with Journal(folder) as journal:
        journal.append(HEADER)
        running = Study(journal, FormulaPool(), make, plan=PLAN, on_progress=lambda _: None)
        number, _ = running.run()
    tried = [trial.tailoring for trial in running.trials]
    assert len(set(tried)) == len(tried) == PLAN.max_trials
    return tried, number


def test_it_runs_by_module_and_attribute_and_by_entry_point(package: Path, tmp_path: Path) -> None:
    by_place = study(Registry("searcher", {}, section="search"), PLACE, tmp_path / "one")
    installed = Registry("searcher", {}, group="gptailor.searchers", section="search")
    assert "hills" in installed.names
    assert study(installed, "hills", tmp_path / "two") == by_place


def test_its_options_are_checked_when_the_config_is_read(package: Path) -> None:
    installed = Registry("searcher", {}, group="gptailor.searchers", section="search")
    assert installed.problems("hills", {"neighbours": 12}) == []
    assert installed.problems("hills", {"neighbours": 0, "neighbors": 3}) == [
        "search.options.neighbours: must be a whole number from 1 to 1000, not 0",
        "unknown option of searcher hills 'neighbors'; did you mean 'neighbours'? known: "
        "neighbours",
    ]
    assert installed.defaults("hills") == {"neighbours": 8}


def test_the_programs_own_names_come_first() -> None:
    assert SEARCHERS.names[: len(SEARCHERS.builtin)] == tuple(SEARCHERS.builtin)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hills", PLACE])
def test_the_command_line_searches_with_it(package: Path, name: str, job: Any) -> None:
    search = {"name": name, "options": {"neighbours": 4}}
    config = job(search=search, budget={"max_trials": 12, "n_examples": [4], "finalists": 2})
    done = run_python(package, "-m", "gptailor", "search", config)
    assert done.returncode == 0, done.stderr
