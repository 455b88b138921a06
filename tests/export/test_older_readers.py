"""What readers of transformers 4 find in an exported checkpoint.

The judge is transformers 5 itself, which converts the older keys where there are no newer ones;
with GPTAILOR_TRANSFORMERS_4, the python of an environment with transformers 4.57, that one.
"""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from gptailor.core.tailoring import Tailoring
from gptailor.export import export_checkpoint
from gptailor.export.older_readers import add_older_keys

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LINEAR = {"rope_type": "linear", "factor": 3.0}
_LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "original_max_position_embeddings": 32,
}
_PLAIN = {"rope_type": "default"}
_BY_KIND = {
    "full_attention": {**_LINEAR, "rope_theta": 500.0},
    "sliding_attention": {**_PLAIN, "rope_theta": 300.0},
}
_READ = """
import sys, json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
inputs = AutoTokenizer.from_pretrained(folder)("The capital of France", return_tensors="pt")
ids = inputs.input_ids
made = model.generate(**inputs, max_new_tokens=24, min_new_tokens=24, do_sample=False)
print(json.dumps([ids[0].tolist(), made[0].tolist()]))
"""


@pytest.mark.parametrize(
    ("model_type", "rope"),
    [
        ("llama", _LLAMA3),
        ("llama", _PLAIN),
        ("gemma3_text", _BY_KIND),
        ("olmo3", _BY_KIND | {"sliding_attention": {**_PLAIN, "rope_theta": 500.0}}),
        ("olmo2", _LINEAR),
        ("phi3", _LONG),
        ("phi", {**_PLAIN, "partial_rotary_factor": 0.25}),
        ("gpt_neox", {**_LINEAR, "partial_rotary_factor": 0.75}),
        ("apertus", _PLAIN),
    ],
    ids=str,
)
def test_the_older_keys_say_what_the_newer_ones_say(
    model_type: str, rope: dict[str, Any], tmp_path: Path
) -> None:
    whole = rope if "full_attention" in rope else {"rope_theta": 500.0, **rope}
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 64}
    config = AutoConfig.for_model(model_type, rope_parameters=whole, pad_token_id=0, **sizes)
    config.save_pretrained(tmp_path)
    add_older_keys(tmp_path, None)
    file = tmp_path / "config.json"
    both = AutoConfig.from_pretrained(tmp_path)
    fields = json.loads(file.read_text(encoding="utf-8"))
    assert fields["rope_parameters"] == config.rope_parameters == _newer(both.rope_parameters)
    # apertus: null must be there, for transformers 4 has a scaling of its own where nothing is said
    assert fields["rope_scaling"] is None or "factor" in str(fields["rope_scaling"])
    del fields["rope_parameters"]
    # transformers 5 takes null for nothing said, and gives Olmo 3's theta to full attention alone
    if model_type not in {"apertus", "olmo3"}:
        file.write_text(json.dumps(fields), encoding="utf-8")
        older = AutoConfig.from_pretrained(tmp_path).rope_parameters
        assert _newer(older) == config.rope_parameters


def _newer(rope: dict[str, Any]) -> dict[str, Any]:
    """Without the older name of the type, which transformers 5 keeps beside the newer one."""
    return {name: value for name, value in rope.items() if name != "type"}


def test_the_number_of_experts_has_both_names(tmp_path: Path) -> None:
    AutoConfig.for_model("qwen3_moe", num_experts=4).save_pretrained(tmp_path)
    add_older_keys(tmp_path, None)
    fields = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert fields["num_experts"] == fields["num_local_experts"] == 4


@pytest.fixture(scope="module")
def exported(
    opened: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    rope = {"rope_parameters": {**_LLAMA3, "rope_theta": 300.0}}
    family = opened("llama", **rope).family
    folder = tmp_path_factory.mktemp("older") / "model"
    layers = [f"base:{layer}" for layer in (0, 1, 3, 5)]
    tailoring = Tailoring.from_yaml(f"format: gptailor/1\nlayers: {layers}\n")
    export_checkpoint(family, tailoring, folder)
    return family, folder


def test_the_tokenizer_is_of_a_class_that_both_have(exported: tuple[Any, Path]) -> None:
    family, folder = exported
    said = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert (said["add_bos_token"], said["add_eos_token"]) == (False, False)
    assert said["model_input_names"] == ["input_ids", "attention_mask"]
    assert not {"is_local", "local_files_only"} & said.keys()
    text = "<s>The capital of France"
    assert AutoTokenizer.from_pretrained(folder)(text).input_ids == family.tokenizer(text).input_ids


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("LlamaTokenizerFast", "LlamaTokenizerFast"),
        ("Qwen2Tokenizer", "Qwen2Tokenizer"),
        ("TokenizersBackend", "PreTrainedTokenizerFast"),
        ("SomeTokenizer", "PreTrainedTokenizerFast"),  # neither has it
    ],
)
def test_the_class_that_the_base_names_is_kept_where_both_have_it(
    said: str, kept: str, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    AutoConfig.for_model("llama").save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "tokenizer_config.json"
    fields = json.loads(file.read_text(encoding="utf-8")) | {"tokenizer_class": said}
    file.write_text(json.dumps(fields), encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    for one in (tokenizer, AutoConfig.for_model("llama")):
        one.save_pretrained(tmp_path / "out")
    add_older_keys(tmp_path / "out", tokenizer)
    out = tmp_path / "out" / "tokenizer_config.json"
    assert json.loads(out.read_text(encoding="utf-8"))["tokenizer_class"] == kept
    text = "<s>The capital of France"
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert again(text).input_ids == tokenizer(text).input_ids


def test_transformers_4_writes_the_same_tokens(exported: tuple[Any, Path]) -> None:
    python = os.environ.get("GPTAILOR_TRANSFORMERS_4")
    if python is None:
        pytest.skip("GPTAILOR_TRANSFORMERS_4 names no python")
    _, folder = exported
    done = subprocess.run([python, "-c", _READ, folder], capture_output=True, check=True, text=True)
    ids, made = json.loads(done.stdout.splitlines()[-1])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert ids == tokenizer("The capital of France").input_ids
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = model.generate(
        torch.tensor([ids]), max_new_tokens=24, min_new_tokens=24, do_sample=False
    )
    assert made == ours[0].tolist()
