"""What no run has recorded is scored and timed once, and kept."""

import json
from pathlib import Path

import pytest

from gptailor.app.compare_runs import compare
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError, TailoringError
from gptailor.record.run_record import read_run

pytestmark = pytest.mark.slow


def test_scores_that_are_not_recorded_are_measured_once_and_equal(run: Path) -> None:
    path, record = run / "record.jsonl", read_run(run)
    recorded, best = record.test_scores, record.best_trial
    assert best is not None
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["kind"] != "test"))
    shorter = run.parent / "shorter.yaml"
    Tailoring(best.tailoring.layers[:-2]).save(shorter)
    said: list[str] = []
    first = compare([run], [shorter], on_message=said.append)
    assert [text.split()[0] for text in said] == ["loading", "scoring", "timing"]
    for name, scores in recorded.items():
        row = first.table.row("one" if name == "result" else name, "which")
        assert row is not None
        assert row.score.value == scores.value("which", "acc")
    assert [row.of_base is not None for row in first.table.rows_of(str(shorter))] == [True, True]
    speed = {model.name: model.speed for model in first.models}
    assert speed["base"] is not None
    assert speed["base"] == speed["math"]
    assert speed["base"].value == 1
    assert all(one is not None and one.low <= one.value <= one.high for one in speed.values())
    again: list[str] = []
    assert compare([run], [shorter], on_message=again.append) == first
    assert again == []


def test_changed_weights_are_not_compared(run: Path) -> None:
    path = run / "record.jsonl"
    header, rest = path.read_text(encoding="utf-8").split("\n", 1)
    plain = json.loads(header)
    plain["family"]["digests"]["math"] = "0" * 16
    path.write_text(json.dumps(plain) + "\n" + rest, encoding="utf-8")
    with pytest.raises(ConfigError, match="weights of member 'math' changed"):
        compare([run])


def test_a_tailoring_without_its_fitted_weights_is_named(run: Path) -> None:
    text = "{source: 'base:0', refit_to: 2, fitted: 0123456789abcdef}"
    layers = f"[{text}, 'base:2', 'base:3', 'base:4', 'base:5']"
    path = run.parent / "mine.yaml"
    path.write_text(f"{{format: gptailor/1, embedding: base, head: base, layers: {layers}}}")
    with pytest.raises(TailoringError, match=r"mine.yaml: layers\[0\]: the fitted weights 0123"):
        compare([run], [path])
