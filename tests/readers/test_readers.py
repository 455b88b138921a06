"""Other programs read what is exported, as the page of readers says.

Needs their environments: `make readers` installs them and names their folder in GPTAILOR_READERS.
"""

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
READERS = ("transformers 4", "vLLM", "llama.cpp")
FIGURES = json.loads((ROOT / "benchmarks/results/readers.json").read_text(encoding="utf-8"))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the benchmark of readers: ``script("page")``."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks/readers")
    return importlib.import_module


def test_the_page_is_made_of_the_figures(script: Any) -> None:
    page = (ROOT / "docs/reference/readers.md").read_text(encoding="utf-8")
    assert page == script("page").page_of(FIGURES)


def test_every_tested_architecture_was_read_by_every_program() -> None:
    walked = yaml.safe_load((ROOT / "tests/architectures/tiny.yaml").read_text(encoding="utf-8"))
    table = yaml.safe_load((ROOT / "benchmarks/readers/models.yaml").read_text(encoding="utf-8"))
    rows = table["models"]
    assert {own.get("type", name) for name, own in rows.items()} == {*walked["architectures"]}
    asked = {(reader, name) for reader in READERS for name in rows}
    assert {(row["reader"], row["model_type"]) for row in FIGURES["rows"]} == asked


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_the_program_still_reads_what_it_has_read(reader: str, script: Any, tmp_path: Path) -> None:
    envs = Path(os.environ.get("GPTAILOR_READERS", "nowhere"))
    measure = script("measure")
    if not (envs / measure.READERS[reader].program).exists():
        pytest.skip(f"GPTAILOR_READERS names no folder with {reader}")
    known = {r["model_type"]: r["result"] for r in FIGURES["rows"] if r["reader"] == reader}
    _, rows = measure.measured(list(known), [reader], envs, tmp_path)
    assert {row.model_type: row.result for row in rows} == known
