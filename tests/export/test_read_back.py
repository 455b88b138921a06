"""A checkpoint with the right names and shapes and the wrong meaning must not pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import ExportError
from gptailor.export import export_checkpoint
from gptailor.export.checkpoint import tailored_weights
from gptailor.export.read_back import check_checkpoint
from gptailor.family import Family, MemberSpec, load_family

TAILORING = Tailoring(tuple(LayerSpec.of(f"base:{layer}") for layer in (0, 2, 3, 5)))
OPTIONS: dict[str, dict[str, Any]] = {
    # a window longer than the text of the check, as real models have
    "qwen2": {
        "sliding_window": 128,
        "use_sliding_window": True,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    },
    "gemma2": {"sliding_window": 128},
    "smollm3": {"no_rope_layers": [1, 0, 1, 0, 1, 0]},
}


@pytest.fixture(scope="module")
def exported(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Family, Path]]:
    known: dict[str, tuple[Family, Path]] = {}

    def export(model_type: str) -> tuple[Family, Path]:
        if model_type not in known:
            root = tmp_path_factory.mktemp(model_type)
            tiny_model(model_type, **OPTIONS.get(model_type, {})).save_pretrained(root / "base")
            tiny_tokenizer.save_pretrained(root / "base")
            family = load_family(MemberSpec(path=str(root / "base")), {}, dtype=torch.float32)
            export_checkpoint(family, TAILORING, root / "out")
            known[model_type] = family, root / "out"
        return known[model_type]

    return export


def check(folder: Path, family: Family) -> None:
    weights = tailored_weights(family, TAILORING, path="model.layers", dtype=torch.float32)
    check_checkpoint(folder, family, TAILORING, weights)


def edit_config(folder: Path, **fields: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    ("model_type", "fields"),
    [
        ("qwen2", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
        ("gemma2", {"layer_types": ["sliding_attention", "full_attention"] * 2}),
        ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}),
        ("llama", {"rms_norm_eps": 0.1}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}),
        ("llama", {"hidden_act": "gelu"}),
    ],
)
def test_a_config_that_says_something_else_is_noticed(
    model_type: str,
    fields: dict[str, Any],
    exported: Callable[[str], tuple[Family, Path]],
    tmp_path: Path,
) -> None:
    family, folder = exported(model_type)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    check(copy, family)
    edit_config(copy, **fields)
    with pytest.raises(ExportError, match="differs from the tailored model by"):
        check(copy, family)


def test_layers_in_another_order_are_noticed(
    exported: Callable[[str], tuple[Family, Path]], tmp_path: Path
) -> None:
    def swap(tensors: dict[str, Tensor]) -> None:
        one, two = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
        tensors[one], tensors[two] = tensors[two], tensors[one]

    family, folder = exported("llama")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit_tensors(copy, swap)
    with pytest.raises(ExportError, match="2 tensors that are different"):
        check(copy, family)


def test_a_missing_tensor_is_noticed(
    exported: Callable[[str], tuple[Family, Path]], tmp_path: Path
) -> None:
    family, folder = exported("llama")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit_tensors(copy, lambda tensors: tensors.__delitem__("model.norm.weight"))
    with pytest.raises(ExportError, match=r"missing, model\.norm\.weight among them"):
        check(copy, family)


def test_a_tensor_too_many_is_noticed(
    exported: Callable[[str], tuple[Family, Path]], tmp_path: Path
) -> None:
    family, folder = exported("llama")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    edit_tensors(copy, lambda tensors: tensors.update({"model.extra.weight": torch.ones(2)}))
    with pytest.raises(ExportError, match="unexpected"):
        check(copy, family)
