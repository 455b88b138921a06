"""Small copies of situations that users have reported: each is right, or told in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptailor as gt
from gptailor.app.inputs import load_members, open_tasks

pytestmark = pytest.mark.slow

CHECKED = [
    ("adapter-beside-merged-model", 2, "holds an adapter (adapter_config.json) and a whole model"),
    ("adapter-with-unknown-keys", 0, "has some_future_scaling, which peft"),
    ("git-lfs-pointer", 2, "base/model.safetensors is a Git LFS pointer"),
    ("multi-token-prediction-layer", 0, "(model.layers.46.eh_proj.weight"),
    ("stale-single-file", 0, "both model.safetensors and shards"),
    ("task-words-of-lm-eval", 2, "write acc"),
    ("trainer-output-folder", 2, "models are in its folders checkpoint-500, checkpoint-1000"),
    ("chat-variant-of-plain-base", 0, "differs from the base in its tokenizer, chat template"),
    ("longer-than-n-positions/opt/t128", 2, "made for 64 tokens at most"),
    ("longer-than-n-positions/gpt2/t128", 2, "made for 64 tokens at most"),
    ("longer-than-n-positions/gpt2/t64", 0, "12 inputs are longer than the 64 tokens"),
]
SCORED = [  # bits per byte of the whole base on the test split, as lm-eval has them
    ("longer-than-n-positions/gpt2", 3.641189),
    ("longer-than-n-positions/gpt2/t64", 3.641189),
    ("longer-than-2048", 7.161162),
    ("longer-than-2048/tailor-4096", 7.161162),
    ("empty-lines-of-text", 4.169885),
]
EXPORTED = {  # the tailoring, a file of the export, and what it says
    "config-of-transformers-4": ("t", "config.json", '"rope_theta": 500000.0,'),
    "chat-variant-of-plain-base": ("t", "README.md", "in its tokenizer, chat template"),
    "multi-token-prediction-layer": (None, "config.json", '"num_nextn_predict_layers": 0,'),
    "mergekit-yaml-brought-along": (
        "slices",
        "tailoring.yaml",
        "- base:1\n- math:3\n- math:4\n- math:5\n",
    ),
}


@pytest.fixture
def case(shared_folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Copy a case and return its config; keys that were renamed since have their new names."""

    def copied(name: str) -> Path:
        found = shared_folder / "cases" / name
        found = found / "tailor.yaml" if found.is_dir() else found.with_suffix(".yaml")
        if not found.is_file():
            pytest.skip(f"{found} is missing")
        folder = Path(shutil.copytree(found.parent, tmp_path / "case"))
        config = folder / found.name
        text = config.read_text(encoding="utf-8")
        config.write_text(text.replace("report_", "test_"), encoding="utf-8")
        return config

    return copied


@pytest.mark.parametrize(("name", "code", "words"), CHECKED)
def test_what_check_says_of_it(
    name: str, code: int, words: str, case: Callable[..., Path], run_command: Any
) -> None:
    found, out, err = run_command("check", case(name))
    assert found == code, err
    assert words in out + err
    assert err.count("error: ") == bool(code)


@pytest.mark.parametrize(("name", "value"), SCORED)
def test_the_base_scores_what_lm_eval_has(
    name: str, value: float, case: Callable[..., Path]
) -> None:
    loaded = gt.load_config(case(name))
    family = load_members(loaded)
    (measured,) = gt.evaluate("base", family, open_tasks(loaded, family)).tasks.values()
    found = measured["bits_per_byte"]
    assert np.average(found.values, weights=found.weights) == pytest.approx(value, abs=2e-6)


@pytest.mark.parametrize("name", EXPORTED)
def test_what_its_export_says(name: str, case: Callable[..., Path], run_command: Any) -> None:
    tailoring, file, words = EXPORTED[name]
    folder = case(name).parent
    if tailoring is None:
        tailoring, layers = "cut", [f"base:{layer}" for layer in range(40)]
        text = json.dumps({"format": "gptailor/1", "layers": layers})
        (folder / "cut.yaml").write_text(text, encoding="utf-8")
    given = ["--tailoring", folder / f"{tailoring}.yaml", "-o", folder / "model"]
    code, _, err = run_command("export", folder / "tailor.yaml", *given)
    assert code == 0, err
    assert words in (folder / "model" / file).read_text(encoding="utf-8")


def test_a_test_task_of_another_name_is_searched_to_its_end(
    case: Callable[..., Path], run_command: Any
) -> None:
    config = case("report-task-of-another-name")
    code, _, err = run_command("search", config, "--out", config.parent / "run")
    assert code == 0, err
    run = gt.Run(config.parent / "run")
    assert run.tailoring == gt.Tailoring.load(run.folder / "best.yaml")
    assert {*run.scores} == {"base", "math", "result"}
