"""Malformed checkpoints and adapters end the command with 2 and a sentence; nothing is written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from damage import catalogue, copied, spoil
from safetensors.torch import save_file

FAMILIES = catalogue("families")["cases"]
ADAPTERS = catalogue("adapters")["cases"]
Refused = Callable[..., list[str]]


@pytest.fixture(scope="session")
def sound_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 2 on every q_proj of the base."""
    folder = tmp_path_factory.mktemp("adapter")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "bias": "none",
        "base_model_name_or_path": "somewhere/else",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    shapes = {"A": (2, 32), "B": (32, 2)}
    tensors = {
        name.format(layer, factor): torch.full(shape, 0.01 * (layer + 1))
        for layer in range(2)
        for factor, shape in shapes.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Factory: a tailor.yaml with a family, whose task is never asked for."""

    def write(family: dict[str, Any]) -> Path:
        path = tmp_path / "tailor.yaml"
        config = {
            "family": family,
            "remove": 1,
            "tasks": [{"name": "./quiz.yaml", "metric": "acc"}],
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


def test_the_sound_family_and_adapter_are_sound(
    config_of: Any, low_family: Any, sound_adapter: Path, tmp_path: Path, run_command: Any
) -> None:
    variants = {
        "math": str(copied(low_family.variants["math"], tmp_path / "math")),
        "it": str(copied(sound_adapter, tmp_path / "adapter")),
    }
    code, _, err = run_command(
        "check", config_of({"base": str(low_family.base), "variants": variants})
    )
    assert code == 2
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert told == [f"error: {tmp_path / 'quiz.yaml'}: no such file"]


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", FAMILIES, ids=range(len(FAMILIES)))
def test_a_malformed_checkpoint_is_refused(
    case: dict[str, Any], config_of: Any, low_family: Any, tmp_path: Path, assert_refused: Any
) -> None:
    folders = {"base": low_family.base, "math": low_family.variants["math"]}
    for name, folder in folders.items():
        spoil(copied(folder, tmp_path / name), case if case.get("of") == name else {})
    family = {"base": "./base", "variants": {"math": "./math"}} | case.get("say", {})
    assert_refused("check", config_of(family), told=case["told"])


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", ADAPTERS, ids=range(len(ADAPTERS)))
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_malformed_adapter_is_refused(
    case: dict[str, Any],
    config_of: Any,
    low_family: Any,
    sound_adapter: Path,
    tmp_path: Path,
    assert_refused: Any,
) -> None:  # fmt: skip
    copied(low_family.base, tmp_path / "base")
    spoil(copied(sound_adapter, tmp_path / "adapter"), case)
    variant = {"path": "./adapter"} | case.get("say", {})
    path = config_of({"base": "./base", "variants": {"it": variant}})
    assert_refused("search", path, told=case["told"])


def test_there_are_enough_of_them() -> None:
    assert min(len(FAMILIES), len(ADAPTERS)) >= 45
