"""Folders and files that are broken or mean harm: one sentence each, nothing is run."""

import json
import os
import pickle
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from gptailor.errors import FamilyError
from gptailor.family import MemberSpec, load_family

pytestmark = pytest.mark.sampled(6)
MARK = "this ran"
UP = "model.layers.3.mlp.up_proj.weight"
INDEX = "model.safetensors.index.json"
_REMOTE = {"auto_map": {"AutoTokenizer": ["other/repository--evil.Tokenizer", None]}}


def _faults(base: Path | str, **variants: Path | str) -> list[str]:
    sources = {name: MemberSpec(path=str(path)) for name, path in variants.items()}
    with pytest.raises(FamilyError) as caught:
        load_family(MemberSpec(path=str(base)), sources, dtype=torch.float32)
    assert all("\n" not in sentence for sentence in caught.value.problems)
    return list(caught.value.problems)


@pytest.fixture
def model(pico_family: Any, tmp_path: Path) -> Path:
    """A copy of the pico base that a test may break."""
    return Path(shutil.copytree(pico_family.base, tmp_path / "model"))


def _config(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _weights(model: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(model / "model.safetensors")
    change(state)
    save_file(state, model / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/no/such/folder", "does not exist"),
        ("./missing", "does not exist"),
        ("nobody-here/no-such-model", "the model hub is switched off"),
        ("no-such-model", "the model hub is switched off"),
        ("a/b/c/d", "does not exist"),
        ("no.gguf", "does not exist"),
        (" ", "is not a path"),
        ("x/" * 5000, "can't be read"),
        ("package://no_such_package/x.gguf", "not installed"),
        ("package://numpy", "write it as package://NAME/FILE"),
        ("package://numpy/../../etc/passwd", "write it as package://NAME/FILE"),
        ("package://numpy/no-such-file.gguf", "holds no no-such-file.gguf"),
        ("package://os.path/x", "write it as package://NAME/FILE"),
    ],
)
def test_a_path_that_leads_nowhere(path: str, words: str) -> None:
    (told,) = _faults(path)
    assert words in told
    assert "'base'" in told


@pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "x" * 5000])
def test_a_text_that_can_be_no_path_makes_no_spec(path: str) -> None:
    with pytest.raises(ValidationError, match="path"):
        MemberSpec(path=path)


def test_looking_into_a_package_does_not_import_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "gptailor_trap"
    package.mkdir()
    (package / "__init__.py").write_text(f"raise SystemExit({MARK!r})")
    monkeypatch.syspath_prepend(tmp_path)
    (told,) = _faults("package://gptailor_trap/x.gguf")
    assert "holds no x.gguf" in told


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "has no config.json"),
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "must hold a JSON object"),
        ("[" * 100_000, "not valid JSON"),
        ("{}", "model_type is None"),
        ('{"model_type": 7}', "model_type is 7"),
        ('{"model_type": "lama"}', "model_type is 'lama'"),
        ('{"model_type": "llama", "auto_map": {"AutoConfig": "evil.C"}}', "lack"),
        ('{"model_type": "t5"}', "no such causal language model"),
        ('{"model_type": "bart"}', "encoder with a decoder"),
        ('{"model_type": "emu3"}', "several models"),
        ('{"model_type": "gemma3n_text"}', "share weights or state"),
    ],
)
def test_a_config_that_says_nothing_useful(model: Path, text: str | None, words: str) -> None:
    (model / "config.json").unlink()
    if text is not None:
        (model / "config.json").write_text(text)
    assert any(words in sentence for sentence in _faults(model))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 1000}, "hold only 57 tensors"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"num_hidden_layers": "six"}, "num_hidden_layers"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"num_hidden_layers": 7}, "lack 9 tensors"),
        ({"num_hidden_layers": 5}, "unknown 9 tensors"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
        ({"hidden_size": 64}, "has shape"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_attention_heads": 2.5}, "num_attention_heads is 2.5"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"vocab_size": 10**30}, "vocab_size"),
        ({"hidden_act": "no such"}, "no such"),
        ({"rope_parameters": {"rope_type": "odd"}}, "odd"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised (bitsandbytes)"),
        ({"quantization_config": "fp8"}, "quantised (fp8)"),
        ({"dtype": "no such"}, "no such"),
        ({"rms_norm_eps": float("nan")}, "it holds NaN"),
        ({"num_labels": 10**7}, "num_labels is 10000000"),
        ({"attn_implementation": "evil/kernel"}, "names code to be fetched and run"),
        ({"_attn_implementation": "evil/kernel"}, "names code to be fetched and run"),
        ({"extra": {"_experts_implementation": "a/b"}}, "names code to be fetched and run"),
        ({"use_kernels": True}, "names code to be fetched and run"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_its_weights(
    model: Path, fields: dict[str, Any], words: str
) -> None:
    _config(model, **fields)
    assert any(words in sentence for sentence in _faults(model))


def test_code_in_the_folder_is_never_run(model: Path) -> None:
    trap = f"raise SystemExit({MARK!r})"
    (model / "modeling_evil.py").write_text(trap)
    names = {"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    _config(model, auto_map=names)
    load_family(MemberSpec(path=str(model)), {}, dtype=torch.float32)
    _config(model, auto_map=names, model_type="evil")
    assert "never run" in _faults(model)[0]


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"raise SystemExit({MARK!r})",))


def test_pickles_are_not_opened(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(_Trap()))
    (told,) = _faults(model)
    assert "pytorch_model.bin" in told
    assert "use_safetensors=False" in told


def test_a_folder_without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    assert "has no model.safetensors" in _faults(model)[0]


@pytest.mark.parametrize("size", [0, 4, 8, 20, 500, 10_000, -1])
def test_truncated_weights(model: Path, size: int) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    (told,) = _faults(model)
    assert "model.safetensors is not a whole safetensors file" in told


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}     ',
        struct.pack("<Q", 70)
        + b'{"a":{"dtype":"F32","shape":[9e99],"data_offsets":[0,36]}}'.ljust(70),
        b"\x80\x04K\x01.",
    ],
    ids=["huge", "large", "no object", "no data", "odd shape", "pickle"],
)
def test_absurd_headers(model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    assert "is not a whole safetensors file" in _faults(model)[0]


def test_missing_tensors_are_named(model: Path) -> None:
    _weights(model, lambda state: state.pop("model.layers.3.mlp.up_proj.weight"))
    (told,) = _faults(model)
    assert "lack 1 tensors (model.layers.3.mlp.up_proj.weight)" in told


def test_wrong_shapes_are_named(model: Path) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    _weights(model, lambda state: state.update({name: torch.zeros(3, 3)}))
    (told,) = _faults(model)
    assert f"tensor {name} has shape (3, 3) but the config needs (48, 32)" in told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(model: Path, value: float) -> None:
    name = "model.layers.3.mlp.up_proj.weight"
    _weights(model, lambda state: state[name].view(-1).__setitem__(7, value))
    (told,) = _faults(model)
    assert f"hold values that are not finite ({name})" in told


def test_values_too_large_for_the_dtype_are_named(model: Path) -> None:
    _weights(model, lambda state: state["model.norm.weight"].fill_(1e6))
    with pytest.raises(FamilyError, match=r"\(model\.norm\.weight\) in float16; it ends at 65504"):
        load_family(MemberSpec(path=str(model)), {}, dtype=torch.float16)
    load_family(MemberSpec(path=str(model)), {}, dtype=torch.bfloat16)


def _sharded(model: Path, places: Any) -> None:
    shutil.move(model / "model.safetensors", model / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": places}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (
            {"a": "../model/model-00001-of-00001.safetensors"},
            "is not a safetensors file inside the folder",
        ),
        ({"a": "/etc/passwd"}, "is not a safetensors file inside the folder"),
        ({"a": ".."}, "is not a safetensors file inside the folder"),
        ({"a": "gone.safetensors"}, "1 of 1 shards"),
        ({}, "weight_map must map"),
        (["a"], "weight_map must map"),
        (None, "weight_map must map"),
        ({"a": 7}, "'7' is not a safetensors file"),
        ({"a": "..\\x.safetensors"}, "is not a safetensors file inside the folder"),
        ({"a": "sub/x.safetensors"}, "is not a safetensors file inside the folder"),
        ({"a": "a\0.safetensors"}, "is not a safetensors file inside the folder"),
        ({"a": "a\nb.safetensors"}, "is not a safetensors file inside the folder"),
        ({"a": "a" * 5000 + ".safetensors"}, "is not a safetensors file inside the folder"),
        ({"a": "pytorch_model.bin"}, "is not a safetensors file inside the folder"),
    ],
    ids=str,
)
def test_an_index_that_leads_astray(model: Path, places: Any, words: str) -> None:
    _sharded(model, places)
    assert words in _faults(model)[0]


@pytest.fixture
def sharded(model: Path) -> Path:
    """The model in two shards, of 30 and 27 tensors."""
    state = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    names = sorted(state)
    parts = {"a.safetensors": names[:30], "b.safetensors": names[30:]}
    for file, held in parts.items():
        save_file({name: state[name] for name in held}, model / file, metadata={"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held}
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return model


def _place(model: Path, **places: str | None) -> None:
    index = json.loads((model / INDEX).read_text())
    index["weight_map"] |= places
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v is not None}
    (model / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({UP: "a.safetensors"}, f"tensor {UP} is said to be in a.safetensors but is in b.saf"),
        ({"ghost": "a.safetensors"}, "tensor ghost is said to be in a.safetensors but no shard"),
        ({UP: None}, f"does not name 1 tensors ({UP})"),
    ],
    ids=str,
)
def test_an_index_that_is_wrong(sharded: Path, places: dict[str, Any], words: str) -> None:
    load_family(MemberSpec(path=str(sharded)), {}, dtype=torch.float32)
    _place(sharded, **places)
    assert words in _faults(sharded)[0]


def test_a_shard_that_is_missing(sharded: Path) -> None:
    (sharded / "b.safetensors").unlink()
    assert (
        "1 of 2 shards named in model.safetensors.index.json are missing (b." in _faults(sharded)[0]
    )


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    path = sharded / "a.safetensors"
    save_file({**load_file(path), UP: torch.zeros(48, 32)}, path, metadata={"format": "pt"})
    assert f"tensor {UP} is in both a.safetensors and b.safetensors" in _faults(sharded)[0]


def test_a_tensor_twice_in_one_header(model: Path) -> None:
    header, data = _parts(model)
    text = json.dumps(header)[:-1] + "," + json.dumps({UP: header[UP]})[1:]
    _rewrite(model, text, data)
    assert f"its header names 1 tensors twice ({UP})" in _faults(model)[0]


def _parts(model: Path) -> tuple[dict[str, Any], bytes]:
    """The header and the data of the weights."""
    whole = (model / "model.safetensors").read_bytes()
    end = 8 + struct.unpack("<Q", whole[:8])[0]
    return json.loads(whole[8:end]), whole[end:]


def _rewrite(model: Path, header: str, data: bytes) -> None:
    header += " " * (-len(header) % 8)
    (model / "model.safetensors").write_bytes(
        struct.pack("<Q", len(header)) + header.encode() + data
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data_offsets": [10**9, 10**9 + 6144]}, "is not a whole safetensors file"),
        ({"data_offsets": [-8, 6136]}, "is not a whole safetensors file"),
        ({"data_offsets": [0, 6144]}, "is not a whole safetensors file"),  # another tensor's
        ({"shape": [2**62, 4]}, "is not a whole safetensors file"),
        ({"shape": [48, 64]}, "is not a whole safetensors file"),
        ({"dtype": "F13"}, "is not a whole safetensors file"),
        ({"dtype": "I32"}, f"not stored as floats of 16 bits or more ({UP} as I32)"),
    ],
    ids=str,
)
def test_a_tensor_that_a_header_misplaces(model: Path, fields: dict[str, Any], words: str) -> None:
    header, data = _parts(model)
    header[UP] |= fields
    _rewrite(model, json.dumps(header), data)
    assert words in _faults(model)[0]


def test_bytes_that_no_tensor_claims(model: Path) -> None:
    header, data = _parts(model)
    _rewrite(model, json.dumps(header), data + b"hidden here")
    assert "is not a whole safetensors file" in _faults(model)[0]


def test_a_header_of_ten_gigabytes(model: Path) -> None:
    with (model / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 10 * 2**30))
        file.truncate(11 * 2**30)  # sparse: takes no room on the disk
    assert "header too large" in _faults(model)[0]


def test_floats_of_eight_bits_without_scales(model: Path) -> None:
    _weights(model, lambda state: state.update({UP: state[UP].to(torch.float8_e4m3fn)}))
    assert f"({UP} as F8_E4M3); give the unquantised model" in _faults(model)[0]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_out_of_the_folder(model: Path, tmp_path: Path, name: str) -> None:
    shutil.move(model / name, tmp_path / "outside")
    (model / name).symlink_to(tmp_path / "outside")
    (told,) = _faults(model)
    assert f"{model / name} is a link out of its folder (to {tmp_path / 'outside'})" in told


def test_links_inside_the_folder_and_links_to_the_folder_are_followed(
    model: Path, tmp_path: Path
) -> None:
    (model / "kept").mkdir()
    shutil.move(model / "model.safetensors", model / "kept" / "x")
    (model / "model.safetensors").symlink_to(Path("kept") / "x")
    (tmp_path / "link").symlink_to(model)
    load_family(MemberSpec(path=str(tmp_path / "link")), {}, dtype=torch.float32)


def test_a_link_in_a_circle(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(model / "model.safetensors")
    assert "is a link that leads nowhere" in _faults(model)[0]


def test_something_that_is_no_file(model: Path) -> None:
    (model / "model.safetensors").unlink()
    os.mkfifo(model / "model.safetensors")  # reading it would wait for ever
    assert "is a folder or a pipe where a file should be" in _faults(model)[0]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", ""])
def test_what_may_not_be_read_is_told_so(pico_family: Any, name: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        model = Path(shutil.copytree(pico_family.base, Path(root) / "model"))
        Path(root).chmod(0o755)
        user = os.geteuid()
        (model / name).chmod(0)
        try:
            if user == 0:
                os.seteuid(65534)  # root may read everything
            (told,) = _faults(model)
        finally:
            os.seteuid(user)
            (model / name).chmod(0o755)
    assert told.replace(": can't", " can't").endswith(
        f"{model / name} can't be read: Permission denied"
    )


def test_a_sharded_checkpoint_is_read(model: Path, pico_family: Any) -> None:
    names = load_file(model / "model.safetensors")
    _sharded(model, dict.fromkeys(names, "model-00001-of-00001.safetensors"))
    sources = {"twin": MemberSpec(path=str(pico_family.base))}
    family = load_family(MemberSpec(path=str(model)), sources, dtype=torch.float32)
    assert family.digests["base"] == family.digests["twin"]
    assert family.nbytes == 4 * family.parameters


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer_config.json", "nonsense"),
        ("tokenizer_config.json", "[]"),
        ("tokenizer_config.json", json.dumps(_REMOTE)),
        ("special_tokens_map.json", "[]"),
        ("added_tokens.json", '{"a": "x"}'),
    ],
)
def test_a_broken_tokenizer(model: Path, name: str, text: str) -> None:
    (model / name).write_text(text)
    (told,) = _faults(model)
    assert "its tokenizer can't be read" in told
    assert "trust_remote_code" not in told


def test_a_tokenizer_that_is_a_pickle_is_not_opened(model: Path) -> None:
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(pickle.dumps(_Trap()))
    assert "its tokenizer can't be read" in _faults(model)[0]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_generation_config(model: Path, text: str) -> None:
    (model / "generation_config.json").write_text(text)
    assert "generation_config" in _faults(model)[0]


def test_faults_of_base_and_variants_are_told_together(model: Path, tmp_path: Path) -> None:
    told = _faults(model, gone=tmp_path / "gone", other="package://no_such_package/x.gguf")
    assert len(told) == 2


def test_a_strength_is_for_adapters_only(model: Path) -> None:
    with pytest.raises(FamilyError, match="only an adapter has a strength"):
        load_family(MemberSpec(path=str(model), strength=0.5), {}, dtype=torch.float32)
