"""A searcher from another package: the very code of the how-to, in a package made on the spot."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studies import HEADER, PLAN, SPACE, FormulaPool

import gptailor
from gptailor.core.objective import Objective
from gptailor.core.plugins import SEARCHERS, Registry
from gptailor.core.tailoring import Tailoring
from gptailor.record.journal import Journal
from gptailor.searchers.searcher import SearchContext, Searcher, make_searcher
from gptailor.study import Study

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/add-a-searcher.md"
PLACE = "tailor_hills:hill_climbing"


def block(language: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the how-to's package, installed as pip would have, and importable."""
    project = tomllib.loads(block("toml"))["project"]
    folder = tmp_path / "site"
    metadata = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (metadata / "METADATA").write_text(head, encoding="utf-8")
    points = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in named.items())
        for group, named in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(points), encoding="utf-8")
    (folder / "tailor_hills.py").write_text(block("python"), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("tailor_hills", None)


def study(registry: Registry, name: str, folder: Path) -> tuple[list[Tailoring], int]:
    """Run a small study; the tailorings tried, and the number of the chosen trial."""

    def make(objective: Objective) -> Searcher:
        context = SearchContext(SPACE, objective, PLAN.rungs, PLAN.max_trials, seed=3)
        return make_searcher(registry.load(name), context, {"neighbours": 5})

    with Journal(folder) as journal:
        journal.append(HEADER)
        running = Study(journal, FormulaPool(), make, plan=PLAN, on_progress=lambda _: None)
        chosen = running.run()
    tried = [trial.tailoring for trial in running.trials]
    assert len(set(tried)) == len(tried) == PLAN.max_trials
    return tried, chosen.number


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
    path = os.pathsep.join([str(package), str(Path(gptailor.__file__).parents[1])])
    search = {"name": name, "options": {"neighbours": 4}}
    config = job(search=search, budget={"max_trials": 12, "n_examples": [4], "finalists": 2})
    command = [sys.executable, "-m", "gptailor", "search", str(config)]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
