"""A target instead of a number of layers: resolved once, proved after the search, and shown."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from gptailor.record.run_record import read_run

pytestmark = pytest.mark.slow

Command = Callable[..., tuple[int, str, str]]
BUDGET = {"max_trials": 6, "n_examples": [4, 12], "finalists": 1}


def aim(config: Path, **target: object) -> None:
    plain = yaml.safe_load(config.read_text())
    plain.pop("remove", None)
    config.write_text(yaml.safe_dump(plain | {"target": target}))


def test_a_target_is_met_by_what_is_exported_and_proved_in_report_and_card(
    job: Callable[..., Path], tmp_path: Path, run_command: Command
) -> None:
    config, run, model = job(budget=BUDGET), tmp_path / "run", tmp_path / "model"
    aim(config, memory="130KB", context=100, dtype="bfloat16")
    code, out, err = run_command("check", config)
    assert code == 0, err
    assert "target:   at most 130KB with 1 x 100 tokens: without 2 of 6 layers, at most" in out
    for _ in range(2):  # the second time nothing is left to do
        code, _, err = run_command("search", config, "--out", run)
        assert code == 0, err
    record = read_run(run)
    assert [entry.kind for entry in record.entries].count("proof") == 1
    assert record.header.n_kept == 4
    assert record.header.target is not None
    proof = record.proof
    assert proof is not None
    code, _, err = run_command("export", run, "-o", model, "--dtype", "bfloat16")
    assert code == 0, err
    tensors = load_file(model / "model.safetensors").values()
    n_parameters = sum(tensor.numel() for tensor in tensors)
    assert proof.sizes["parameters"] == (record.header.family.parameters, n_parameters)
    assert proof.sizes["checkpoint in bfloat16, bytes"][1] == 2 * n_parameters
    cache = 100 * 4 * 2 * 2 * 8 * 2  # tokens, layers, keys and values, heads, their size, bytes
    assert proof.sizes["weights and cache of 1 x 100 tokens, bytes"][1] == 2 * n_parameters + cache
    assert 2 * n_parameters + cache <= 130_000
    assert {name.partition(",")[0] for name in proof.rates} >= {"transformers"}
    assert all(len(rounds) == 5 for pair in proof.rates.values() for rounds in pair)
    code, out, err = run_command("report", run)
    assert code == 0, err
    for text in (Path(out.strip()).read_text(), (model / "README.md").read_text()):
        assert "without 2 of 6 layers, at most" in text
        assert "transformers, generation, tokens a second" in text


def test_a_speedup_is_measured_once_and_then_taken_from_the_record(
    job: Callable[..., Path], tmp_path: Path, run_command: Command
) -> None:
    config, run = job(budget=BUDGET), tmp_path / "run"
    aim(config, speedup=1.2)
    code, out, err = run_command("search", config, "--out", run, "--json")
    assert code == 0, err
    record = read_run(run)
    assert record.header.config["target"]["speedup"] == 1.2
    assert record.header.config["remove"] == 6 - record.header.n_kept >= 1
    assert "times as fast as the base (" in (record.header.target or "")
    code, again, err = run_command("search", config, "--out", run, "--json")
    assert code == 0, err
    assert json.loads(again)["tailoring"] == json.loads(out)["tailoring"]
    aim(config, parameters=50_000)
    code, _, err = run_command("search", config, "--out", run)
    assert code == 2
    assert "target.speedup was 1.2 when this record began and is now None" in err


def test_a_narrow_model_is_proved_as_narrow_as_it_is_exported(
    job: Callable[..., Path], tmp_path: Path, run_command: Command
) -> None:
    config, run, model = job(budget=BUDGET), tmp_path / "run", tmp_path / "model"
    aim(config, memory="130KB", context=100, dtype="bfloat16")
    for words in (("baseline", "wanda_sp", config, "--out", run), ("export", run, "-o", model)):
        code, _, err = run_command(*words)
        assert code == 0, err
    proof, shape = read_run(run).proof, json.loads((model / "config.json").read_text())
    assert proof is not None
    n_parameters = sum(tensor.numel() for tensor in load_file(model / "model.safetensors").values())
    cache = 100 * 6 * 2 * shape["num_key_value_heads"] * 8 * 2
    assert proof.sizes["parameters"][1] == n_parameters < proof.sizes["parameters"][0]
    assert proof.sizes["weights and cache of 1 x 100 tokens, bytes"][1] == 2 * n_parameters + cache
