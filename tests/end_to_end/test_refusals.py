"""What must not be lost or believed: runs, configs, reports, damaged exports, changed weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from gptailor.app.export_run import find_provenance
from gptailor.app.inputs import load_members
from gptailor.cli.evaluate import command as evaluate
from gptailor.cli.export import command as export
from gptailor.config import load_config
from gptailor.errors import ConfigError, ExportError, RecordError, TailoringError, UserError
from gptailor.evaluation.side_by_side import open_finished
from gptailor.report import write_report

pytestmark = pytest.mark.slow


def test_an_export_never_replaces_what_it_is_made_from(run: Path) -> None:
    for out in (run, run.parent, run.parent.parent):
        with pytest.raises(ExportError, match="made from"):
            export(run, out, overwrite=True)
    assert (run / "record.jsonl").exists()


def test_a_report_never_replaces_what_is_no_report(run: Path) -> None:
    with pytest.raises(RecordError, match="no report of ours"):
        write_report(run, run / "record.jsonl")
    assert write_report(run) == write_report(run)  # its own it does replace


def test_a_layer_that_does_not_exist_is_told_before_anything_is_written(
    run: Path, tmp_path: Path
) -> None:
    text = "{format: gptailor/1, embedding: base, head: base, layers: ['base:9']}"
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(TailoringError, match="base:9 does not exist"):
        export(run, tmp_path / "out", tailoring=tmp_path / "t.yaml")
    assert not (tmp_path / "out").exists()


def test_weights_that_changed_since_the_search_are_neither_exported_nor_evaluated(
    run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(run, out)
    record = run / "record.jsonl"
    header, rest = record.read_text().split("\n", 1)
    plain = json.loads(header)
    plain["family"]["digests"]["math"] = "0" * 16
    record.write_text(json.dumps(plain) + "\n" + rest)
    with pytest.raises(ConfigError, match="weights of member 'math' changed"):
        export(run, out)
    with pytest.raises(ConfigError, match="weights of member 'math' changed"):
        evaluate(out, run=run)


def test_what_failed_on_the_test_split_gives_an_export_no_numbers(run: Path) -> None:
    record = run / "record.jsonl"
    assert find_provenance(run, trial=None, tailoring=None, n_layers=lambda _: 0).scores is not None
    lines = []
    for entry in map(json.loads, record.read_text().splitlines()):
        if entry["kind"] == "test" and entry.get("member") in ("base", None):
            entry = {k: v for k, v in entry.items() if k != "scores"} | {"failure": "a reason"}
        lines.append(json.dumps(entry) + "\n")
    record.write_text("".join(lines))
    assert find_provenance(run, trial=None, tailoring=None, n_layers=lambda _: 0).scores is None


def test_scores_that_can_not_be_kept_are_shown_all_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(run, tmp_path / "out")
    (run / "evaluation.json").mkdir()
    capsys.readouterr()
    with pytest.raises(UserError, match=r"evaluation.json: can't be written: Is a directory"):
        evaluate(tmp_path / "out", run=run, batch_size=16, as_json=True)
    assert {row["model"] for row in json.loads(capsys.readouterr().out)} >= {"base", "result"}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed was 0 when this record began and is now 1"),
        ({"remove": 3}, "remove was 2"),
        ({"search": {"name": "random"}}, "search.name was evolution"),
        ({"budget": {"max_trials": 24, "n_examples": [6, 12]}}, "budget.n_examples was [4, 12]"),
        ({"versions": "torch"}, "torch was 0.1 when this record began and is now"),
    ],
)
def test_a_record_is_not_continued_with_something_else(
    run: Path,
    change: dict[str, Any],
    named: str,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    config = run.parent.parent / "tailor.yaml"
    record = run / "record.jsonl"
    if "versions" in change:
        header, rest = record.read_text().split("\n", 1)
        plain = json.loads(header)
        plain["versions"]["torch"] = "0.1"
        record.write_text(json.dumps(plain) + "\n" + rest)
    else:
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | change))
    before = record.read_bytes()
    code, _, told = run_command("search", config, "--out", run)
    assert code == 2
    assert f"error: {record}: {named}" in told
    assert "Traceback" not in told
    assert record.read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "cut", "config", "nan"])
def test_a_damaged_export_is_refused_before_it_is_scored(
    run: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "out"
    export(run, out)
    weights = out / "model.safetensors"
    tensors = load_file(weights)
    if damage == "missing":
        del tensors["model.layers.1.self_attn.q_proj.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:999])
    elif damage == "config":
        (out / "config.json").write_text("{")
    else:
        tensors["model.layers.1.self_attn.q_proj.weight"].fill_(torch.nan)
        save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"missing tensors|can't be loaded|not finite"):
        evaluate(out, run=run)
    assert not (run / "evaluation.json").exists()


def test_an_export_of_another_architecture_is_not_this_familys(
    run: Path, tmp_path: Path, tiny_model: Callable[..., torch.nn.Module]
) -> None:
    out = tmp_path / "out"
    export(run, out)
    family = load_members(load_config(run.parent.parent / "tailor.yaml"))
    other = tmp_path / "other"
    shutil.copytree(out, other)
    tiny_model("qwen3").save_pretrained(other)  # type: ignore[operator]  # transformers
    with pytest.raises(ExportError, match="is a qwen3 model, and the family is llama"):
        open_finished(family, other)
