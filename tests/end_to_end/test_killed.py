"""Killed a hundred times equals never killed; the same seed gives the same record to the byte."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packages import run_python

from gptailor.app.assemble import assemble, open_study
from gptailor.app.costs import record_costs, record_forecast
from gptailor.config import load_config
from gptailor.record.journal import Journal

pytestmark = pytest.mark.slow

KILLS = 100
# a restart scores what was lost with other candidates beside it: what it shares, and so costs,
# differs, like its time
COSTS = ("seconds", "elapsed", "layer_tokens", "peak_bytes")


@pytest.fixture
def config(job: Callable[..., Path], pico_family: Any) -> Path:
    """Small groups: a kill then falls between trials more often than inside a group.

    With refits, so that a kill may fall between them and what they are scored.
    """
    return job(
        family={
            "base": str(pico_family.base),
            "variants": {"math": str(pico_family.variants["math"])},
            "dtype": "float32",
        },
        budget={"max_trials": 16, "n_examples": [2, 4], "finalists": 2},
        workers={"name": "local", "options": {"group_size": 4}},
        repair="refit",
        calibration={"n_tokens": 1000, "max_length": 32},
    )


def facts(folder: Path) -> list[dict[str, Any]]:
    """The record without costs, and without the notes of having been stopped."""
    lines = (folder / "record.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    kept = [entry for entry in entries[1:] if entry["kind"] not in ("resumed", "truncated")]
    return [{k: v for k, v in entry.items() if k not in COSTS} for entry in kept]


def fitted(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run / "fitted").iterdir()}


def without_times(record: Path) -> bytes:
    """The record's bytes, every time in it blotted out."""
    moments = re.sub(rb'"(created|time)":"[^"]*"', rb'"\1":""', record.read_bytes())
    return re.sub(rb'"(elapsed|seconds|peak_bytes)":[-+.e0-9]+', rb'"\1":0', moments)


def test_killed_a_hundred_times_equals_never_killed_and_the_seed_says_every_byte(
    config: Path, tmp_path: Path
) -> None:
    script = Path(__file__).parent / "killing.py"
    # another seed of str's hash than ours: the order of a set must not reach the record
    done = run_python(None, script, config, tmp_path, "--kills", KILLS)
    assert done.returncode == 0, done.stderr
    struck = json.loads((tmp_path / "kills.json").read_text(encoding="utf-8"))
    assert struck["studies"] >= KILLS
    assert min(struck["reports"], struck["exports"]) >= 6

    undisturbed = tmp_path / "undisturbed"
    runs = sorted(tmp_path.glob("killed-*"))
    assert runs
    wanted = facts(undisturbed)
    assert [e["number"] for e in wanted if e["kind"] == "trial"] == list(range(16))
    for run in runs:
        assert facts(run) == wanted, run.name
        for name in ("best.yaml", "front.yaml"):
            assert (run / name).read_bytes() == (undisturbed / name).read_bytes()
        assert fitted(run) == fitted(undisturbed) != {}
    assert any(b'"kind":"resumed"' in (run / "record.jsonl").read_bytes() for run in runs)

    assembly = assemble(load_config(config))
    with Journal(tmp_path / "again") as journal:
        study = open_study(assembly, journal, on_progress=lambda _: None)
        record_forecast(journal, assembly)
        study.run()
        record_costs(journal, assembly)
    again = without_times(tmp_path / "again" / "record.jsonl")
    assert again == without_times(undisturbed / "record.jsonl")
