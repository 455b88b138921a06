"""Folders as people have them: with the model elsewhere, twice, by another name, or unfetched."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from gptailor.errors import FamilyError, TaskError
from gptailor.family import Family, MemberSpec, family_of, load_family, tailored_config
from gptailor.tasks.lm_eval.json_data import json_files, place_of_row
from gptailor.tasks.lm_eval.local_files import read_local_tasks

TINY = Path(__file__).parents[1] / "architectures" / "tiny.yaml"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 273744\n"
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
TYPE_OF_HEAD = ("LlamaForSequenceClassification", "Qwen2ForTokenClassification", "SomeRewardModel")


def load(base: Path, **variants: Any) -> Family:
    specs = {name: MemberSpec.model_validate(spec) for name, spec in variants.items()}
    return load_family(MemberSpec(path=str(base)), specs, dtype=torch.float32)


def refusal(base: Path, **variants: Any) -> str:
    with pytest.raises(FamilyError) as caught:
        load(base, **variants)
    (problem,) = caught.value.problems
    return problem


def edit(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields), encoding="utf-8")


@pytest.fixture
def base(low_family: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(low_family.base, tmp_path / "base"))


@pytest.fixture
def adapter(tiny_model: Callable[..., Any], tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(tiny_model("llama", num_hidden_layers=2), config).save_pretrained(
        tmp_path / "adapter"
    )
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "model.safetensors.index.json"]
)
def test_a_git_lfs_pointer_is_called_one(base: Path, name: str) -> None:
    if name.endswith("index.json"):
        (base / "model.safetensors").unlink()
    (base / name).write_text(POINTER, encoding="utf-8")
    assert f"{name} is a Git LFS pointer" in refusal(base)


def test_a_pointer_is_called_one_wherever_a_file_is_named(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    for path in (tmp_path / "m.gguf", adapter / "adapter_model.safetensors", tmp_path / "q.jsonl"):
        path.write_text(POINTER, encoding="utf-8")
    assert "m.gguf is a Git LFS pointer" in refusal(tmp_path / "m.gguf")
    assert "adapter_model.safetensors is a Git LFS pointer" in refusal(base, math=str(adapter))
    files = json_files("json", {"data_files": {"test": str(tmp_path / "q.jsonl")}})
    with pytest.raises(TaskError, match=r"q.jsonl is a Git LFS pointer"):
        place_of_row(files, "test", 0)


@pytest.mark.parametrize("key", ["data_files", "data_dir", "dataset_path"])
def test_a_pointer_among_the_data_of_other_readers_is_called_one(tmp_path: Path, key: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "q.parquet").write_text(POINTER, encoding="utf-8")
    kwargs: dict[str, Any] = {"data_files": {"test": "data/q.parquet"}}
    kwargs = kwargs if key == "data_files" else {"data_dir": "data"} if key == "data_dir" else {}
    config = {"task": "quiz", "dataset_path": "./data" if key == "dataset_path" else "parquet"}
    config |= {"dataset_kwargs": kwargs, "test_split": "test", "output_type": "multiple_choice"}
    (tmp_path / "quiz.yaml").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(TaskError, match=r"q.parquet is a Git LFS pointer"):
        read_local_tasks(tmp_path / "quiz.yaml", object)


def test_the_folders_of_a_trainers_output_are_named(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    for step in (1000, 500):
        shutil.copytree(adapter, tmp_path / "out" / f"checkpoint-{step}")
    told = refusal(base, math=str(tmp_path / "out"))
    assert "models are in its folders checkpoint-500, checkpoint-1000: name one" in told
    shutil.copytree(adapter, tmp_path / "up" / "math")  # an adapter by its own name, one below
    assert "a model is in its folder math: name that" in refusal(base, math=str(tmp_path / "up"))
    shutil.copytree(adapter, tmp_path / "cache" / "snapshots" / "abc")  # of the hub's cache
    told = refusal(base, math=str(tmp_path / "cache"))
    assert f"in its folder snapshots/abc: name that, as in {tmp_path}/cache/snapshots/abc" in told
    shutil.copytree(base, tmp_path / "full" / "checkpoint-8")  # beside a config, but no weights
    shutil.copy(base / "config.json", tmp_path / "full")
    assert "in its folder checkpoint-8" in refusal(tmp_path / "full")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("model-Q4_K_M.gguf", "a GGUF file is named itself: {}/model-Q4_K_M.gguf"),
        ("model.safetensors.incomplete", "is a download that did not end: begin it again"),
        ("global_step100/", "global_step100 has DeepSpeed's parts: run the zero_to_fp32.py"),
    ],
)
def test_what_else_a_folder_has_is_said(base: Path, name: str, words: str) -> None:
    (base / "model.safetensors").unlink()
    (base / name).mkdir() if name.endswith("/") else (base / name).touch()
    assert words.format(base) in refusal(base)


@pytest.mark.parametrize("prefix", ["module.", "pretrained_model."])
def test_a_wrapper_around_a_model_is_called_one(base: Path, prefix: str) -> None:
    state = {
        prefix + name: tensor for name, tensor in load_file(base / "model.safetensors").items()
    }
    save_file(state | {"v_head.bias": torch.zeros(1)}, base / "model.safetensors")
    assert f"the names of its tensors begin with '{prefix}'" in refusal(base)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("consolidated.safetensors", "consolidated.safetensors is in Mistral's own format"),
        ("weights.safetensors", "if weights.safetensors holds its weights, call it model"),
        ("model-00001-of-00002.safetensors", "if model-00001-of-00002.safetensors holds"),
    ],
)
def test_weights_by_another_name_are_pointed_to(base: Path, name: str, words: str) -> None:
    (base / "model.safetensors").rename(base / name)
    assert words in refusal(base)


def test_weights_of_an_adapter_by_another_name_are_pointed_to(base: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "lora.safetensors")
    told = refusal(base, math=str(adapter))
    assert "if lora.safetensors holds its weights, call it adapter_model.safetensors" in told


def test_shards_without_their_index_are_pointed_to(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    shutil.copy(
        base / "model-00001-of-00002.safetensors", base / "model-00002-of-00002.safetensors"
    )
    assert "not model.safetensors.index.json: copy that" in refusal(base)


def test_a_single_file_beside_shards_is_noted(base: Path) -> None:
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert any("both model.safetensors and shards" in note for note in load(base).notes)


def test_an_adapter_beside_a_whole_model_is_refused_unless_one_is_chosen(
    base: Path, adapter: Path, low_family: Any
) -> None:
    alone = load(base, math=str(adapter)).states["math"]
    whole = load(base, math=str(low_family.variants["math"])).states["math"]
    for name in ("config.json", "model.safetensors"):
        shutil.copy(low_family.variants["math"] / name, adapter)
    told = refusal(base, math=str(adapter))
    assert "holds an adapter (adapter_config.json) and a whole model (model.safetensors)" in told
    key = "model.layers.0.self_attn.q_proj.weight"
    for spec, wanted in (
        ({"adapter": str(adapter)}, alone),
        ({"path": str(adapter), "read": "adapter"}, alone),
        ({"path": str(adapter), "read": "model"}, whole),
    ):
        assert torch.equal(load(base, math=spec).states["math"][key], wanted[key])
    (adapter / "model.safetensors").rename(adapter / "pytorch_model.bin")
    assert "and a whole model (pytorch_model.bin)" in refusal(base, math=str(adapter))
    (adapter / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in refusal(base, math={"adapter": str(adapter)})


def test_keys_of_a_later_peft_are_noted_where_they_are_on(base: Path, adapter: Path) -> None:
    assert not any("peft" in note for note in load(base, math=str(adapter)).notes)
    later = {"some_option": None, "merge_now": False, "some_scaling": "cubic"}
    edit(adapter / "adapter_config.json", peft_version="9.9.9", **later)
    (note,) = (n for n in load(base, math=str(adapter)).notes if "peft" in n)
    assert "written by peft 9.9.9 and has some_scaling, which peft" in note


@pytest.mark.parametrize("name", TYPE_OF_HEAD)
def test_what_predicts_no_tokens_is_called_by_its_class(base: Path, name: str) -> None:
    edit(base / "config.json", architectures=[name])
    assert f"it is a {name}, which scores or labels texts" in refusal(base)


def test_classifiers_in_memory_and_in_adapters_are_refused(
    base: Path, adapter: Path, tiny_tokenizer: Any
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(base)
    with pytest.raises(FamilyError, match="is a LlamaForSequenceClassification"):
        family_of(model, {}, tiny_tokenizer)
    edit(adapter / "adapter_config.json", task_type="SEQ_CLS")
    assert "task_type is SEQ_CLS" in refusal(base, math=str(adapter))


@pytest.mark.parametrize("config", [{"quant_method": "bitsandbytes"}, {}])
def test_a_left_over_quantization_config_is_told_apart(base: Path, config: Any) -> None:
    edit(base / "config.json", quantization_config=config)
    assert "take quantization_config out of the file" in refusal(base)


def test_tokens_without_rows_are_noted(base: Path, tiny_tokenizer: Any) -> None:
    assert not any("beyond" in note for note in load(base).notes)
    added = type(tiny_tokenizer).from_pretrained(base)
    added.add_tokens(["<one>", "<two>"])
    added.save_pretrained(base)
    (note,) = (n for n in load(base).notes if "beyond" in n)
    assert "has 2 tokens ('<one>', '<two>') beyond the 320 rows" in note


@pytest.mark.parametrize("place", ["model.layers.61.eh_proj", "model.layers.61.mlp.gate_proj"])
def test_layers_that_predict_further_tokens_are_noted_and_not_promised(
    tiny_model: Callable[..., Any], tmp_path: Path, place: str
) -> None:
    fields = yaml.safe_load(TINY.read_text(encoding="utf-8"))["architectures"]["deepseek_v3"]
    fields |= {"num_hidden_layers": 3, "head_dim": None}
    tiny_model("deepseek_v3", **{k: v for k, v in fields.items() if v}).save_pretrained(tmp_path)
    assert not load(tmp_path).notes
    edit(tmp_path / "config.json", num_nextn_predict_layers=1)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), f"{place}.weight": torch.ones(4, 4)}, file, {"format": "pt"})
    family = load(tmp_path)
    assert any(f"1 tensors ({place}.weight) belong to no layer" in one for one in family.notes)
    written = tailored_config(family.config, [0, 2]).to_dict()
    assert not any(value for name, value in written.items() if "nextn" in name or "mtp" in name)
