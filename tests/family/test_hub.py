"""Repositories of the hub: its cache as it lies on disk, and a small hub of our own."""

import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from hashlib import sha1
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from local_hub import COMMIT, OLDER, Hub, serving
from safetensors.torch import load_file
from transformers import PreTrainedModel
from transformers.utils import logging

from gptailor.errors import FamilyError
from gptailor.family import MemberSpec, load_family


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's library, which is offline."""
    folder = tmp_path / "hub cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on localhost that the hub's library takes for the real one."""
    with serving(Hub(), monkeypatch) as served:
        yield served


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _load(base: str, **variants: MemberSpec) -> Any:
    return load_family(MemberSpec(path=base), variants, dtype=torch.float32)


def _problem(base: str, revision: str | None = None) -> str:
    with pytest.raises(FamilyError) as caught:
        load_family(MemberSpec(path=base, revision=revision), {}, dtype=torch.float32)
    (told,) = caught.value.problems
    assert "\n" not in told
    return told


@pytest.mark.slow
def test_only_what_is_needed_is_fetched(hub: Hub, pico_family: Any, cache: Path) -> None:
    files = _files(pico_family.base)
    waste = {
        name: b"waste"
        for name in (
            *("pytorch_model.bin", "model.gguf", "tf_model.h5", "original/consolidated.00.pth"),
            *("consolidated.safetensors", "onnx/model.onnx", "onnx/config.json", "run.py"),
            *("checkpoint-5/model.safetensors", "flax_model.msgpack", "picture.png"),
            *("model-00001-of-00002.safetensors", "model.safetensors.index.json.bak"),
        )
    }
    hub.repositories["maker/pico"] = {COMMIT: files | waste}
    family = _load("maker/pico")
    assert sorted(hub.fetched) == sorted(files)
    assert family.digests == _load(str(pico_family.base)).digests
    assert f"maker/pico was read from the model hub at commit {COMMIT}" in family.notes


@pytest.mark.slow
@pytest.mark.parametrize("index", [True, False], ids=["shards", "no index"])
def test_of_many_weights_those_that_are_read_are_fetched(
    hub: Hub, pico_family: Any, index: bool
) -> None:
    files = _files(pico_family.base)
    weights = files.pop("model.safetensors")
    named = "model-00001-of-00001.safetensors"
    files[named] = weights
    waste = {"trainer_state.json": b"{}", "fitted/x.safetensors": b"waste"}
    if index:
        waste["model.fp16.safetensors"] = b"waste"
        names = json.loads(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
        index_of = {name: named for name in names if name != "__metadata__"}
        files["model.safetensors.index.json"] = json.dumps(
            {"metadata": {}, "weight_map": index_of}
        ).encode()
        hub.repositories["maker/pico"] = {COMMIT: files | waste}
        assert _load("maker/pico").digests == _load(str(pico_family.base)).digests
    else:
        hub.repositories["maker/pico"] = {COMMIT: files | waste}
        assert "if model-00001-of-00001.safetensors holds its weights" in _problem("maker/pico")
    assert sorted(hub.fetched) == sorted(
        files.keys() - {"trainer_state.json", "fitted/x.safetensors"}
    )


@pytest.mark.slow
def test_a_broken_download_goes_on_where_it_broke_and_shows_a_bar(
    hub: Hub, pico_family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(pico_family.base)
    hub.repositories["maker/pico"] = {COMMIT: files}
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.cut_after = 100_000
    assert sorted(map(len, files.values()))[-2] < hub.cut_after < len(files["model.safetensors"])

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    bars = sys.modules["huggingface_hub.utils.tqdm"]  # its package has a class of that name
    monkeypatch.setattr(bars, "HF_HUB_DISABLE_PROGRESS_BARS", None)
    monkeypatch.setattr(logging, "_tqdm_active", True)
    assert _load("maker/pico").digests == _load(str(pico_family.base)).digests
    assert hub.ranges == ["bytes=100000-"]
    assert "Reconstruction complete: 100%" in terminal.getvalue()
    shown = len(terminal.getvalue())
    _load("maker/pico")
    assert len(terminal.getvalue()) == shown  # no bar where nothing is fetched


@pytest.mark.slow
def test_what_was_fetched_once_is_found_without_a_network(
    hub: Hub, pico_family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["maker/pico"] = {COMMIT: _files(pico_family.base)}
    before = _load("maker/pico").digests
    hub.fetched.clear()
    assert _load("maker/pico").digests == before
    assert hub.fetched == []  # nothing is fetched twice
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert _load("maker/pico").digests == before
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert _load("maker/pico").digests == before
    told = _problem("maker/other")
    assert "nor in the hub's cache, and can't be fetched from the model hub (Connect" in told


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", ["key", "sign"])
def test_a_revision_is_what_is_fetched(hub: Hub, pico_family: Any, how: str) -> None:
    older = _files(pico_family.variants["math"])
    hub.repositories["maker/pico"] = {COMMIT: _files(pico_family.base), OLDER: older}
    source = (
        MemberSpec(path="maker/pico", revision="v1")
        if how == "key"
        else MemberSpec(path="maker/pico@v1", revision=None)
    )
    family = _load("maker/pico", it=source)
    direct = _load(str(pico_family.base), it=MemberSpec(path=str(pico_family.variants["math"])))
    assert family.digests == direct.digests
    assert family.paths["it"] == "maker/pico@v1"
    assert f"maker/pico@v1 was read from the model hub at commit {OLDER}" in family.notes


def test_revisions_that_can_not_be_had(hub: Hub, pico_family: Any) -> None:
    hub.repositories["maker/pico"] = {COMMIT: {}}
    assert "maker/pico (revision v9) can't be fetched: the repository has no such" in _problem(
        "maker/pico@v9"
    )
    assert "names one revision and 'revision' another (v2)" in _problem("maker/pico@v1", "v2")
    assert "only a hub id has a revision (v1)" in _problem(str(pico_family.base), "v1")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "RepoNotFound", "has no such repository, or it is private"),
        (404, "RepoNotFound", "has no such repository, or it is private"),
        (403, "GatedRepo", "is gated: its owner must give you access"),
        (401, "GatedRepo", "is gated: its owner must give you access"),
        (403, "Access to this resource is disabled.", "was disabled on the model hub"),
        (403, "", "the model hub answered 403"),
        (418, "", "the model hub answered 418"),
    ],
)
def test_what_the_hub_does_not_give_is_told(
    hub: Hub, pico_family: Any, status: int, code: str, words: str
) -> None:
    hub.repositories["maker/pico"] = {COMMIT: _files(pico_family.base)}
    hub.statuses["maker/pico"] = (status, code)
    told = _problem("maker/pico")
    assert words in told
    assert told.startswith("member 'base': maker/pico ")


def _cached(cache: Path, name: str, folder: Path, *, commit: str = COMMIT) -> None:
    """Lay a repository out as the hub's library keeps it: refs, blobs, and links to them."""
    root = cache / f"models--{name.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text(commit)
    (root / "blobs").mkdir(exist_ok=True)
    snapshot = root / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        blob = root / "blobs" / sha1(path.read_bytes()).hexdigest()
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)


def test_a_cache_of_the_hub_is_enough(cache: Path, pico_family: Any) -> None:
    _cached(cache, "maker/pico", pico_family.base)
    _cached(cache, "maker/math", pico_family.variants["math"], commit=OLDER)
    family = _load("maker/pico", math=MemberSpec(path="maker/math", revision=OLDER))
    direct = _load(str(pico_family.base), math=MemberSpec(path=str(pico_family.variants["math"])))
    assert family.digests == direct.digests


def test_a_repository_that_is_not_in_the_cache(cache: Path, pico_family: Any) -> None:
    told = _problem("maker/pico")
    assert "the model hub is switched off (HF_HUB_OFFLINE)" in told
    assert "fetch it first with 'hf download maker/pico', or give a folder" in told
    _cached(cache, "maker/pico", pico_family.base)
    assert "(revision v1) is not a folder here nor in" in _problem("maker/pico@v1")


@pytest.mark.slow
def test_a_cached_repository_that_lost_a_file(
    hub: Hub, cache: Path, pico_family: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["maker/pico"] = {COMMIT: _files(pico_family.base)}
    _load("maker/pico")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for path in cache.rglob("model.safetensors"):
        path.unlink()
    assert "is not whole in the hub's cache here" in _problem("maker/pico")


def _line(told: str) -> str:
    """The code in the line of shell that a sentence ends with."""
    words = shlex.split("python" + told.rpartition(": python")[2])
    assert words[:2] == ["python", "-c"]
    return words[2]


@pytest.mark.slow
def test_a_repository_of_pickles_is_converted_by_one_line(
    hub: Hub, pico: Any, pico_family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _files(pico_family.base)
    torch.save(load_file(pico_family.base / "model.safetensors"), tmp_path / "x.bin")
    del files["model.safetensors"]
    files["pytorch_model.bin"] = (tmp_path / "x.bin").read_bytes()
    hub.repositories["maker/pico"] = {COMMIT: files}
    told = _problem("maker/pico")
    assert "only as pickles (pytorch_model.bin), which can run code and are not fetched" in told
    assert "pytorch_model.bin" not in hub.fetched
    monkeypatch.chdir(tmp_path)
    exec(compile(_line(told), "the line", "exec"), {})
    assert _load("pico-safetensors").digests["base"] == pico.digests["base"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
def test_an_adapter_of_the_hub(
    hub: Hub, pico_family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(pico_family.base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    files = _files(tmp_path / "adapter")
    hub.repositories["maker/lora"] = {COMMIT: files}
    family = _load(str(pico_family.base), it=MemberSpec(path="maker/lora", strength=0.5))
    local = MemberSpec(path=str(tmp_path / "adapter"), strength=0.5)
    assert family.digests == _load(str(pico_family.base), it=local).digests
    assert f"maker/lora was read from the model hub at commit {COMMIT}" in family.notes

    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    torch.save(weights, tmp_path / "x.bin")
    del files["adapter_model.safetensors"]
    hub.repositories["maker/old"] = {
        COMMIT: {**files, "adapter_model.bin": (tmp_path / "x.bin").read_bytes()}
    }
    told = _problem("maker/old")
    assert "only as pickles (adapter_model.bin)" in told
    monkeypatch.chdir(tmp_path)
    exec(compile(_line(told), "the line", "exec"), {})
    made = MemberSpec(path="old-safetensors", strength=0.5)
    assert _load(str(pico_family.base), it=made).digests == family.digests


@pytest.mark.slow
def test_a_gguf_file_of_a_repository(
    hub: Hub,
    tiny_model: Callable[..., PreTrainedModel],
    gguf_file: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path = gguf_file(
        tmp_path / "x.gguf", tiny_model("llama"), None, about={"llama.vocab_size": 320}
    )
    hub.repositories["maker/pico-GGUF"] = {
        COMMIT: {"pico.Q8_0.gguf": path.read_bytes(), "other.gguf": b"", "README.md": b""}
    }
    told = _problem("maker/pico-GGUF")
    assert "as GGUF (other.gguf, pico.Q8_0.gguf); name one of them, as in maker/" in told
    hub.fetched.clear()
    for name in ("maker/pico-GGUF/pico.Q8_0.gguf", "maker/pico-GGUF/pico.Q8_0.gguf@main"):
        assert _load(name).digests == _load(str(path)).digests
    assert hub.fetched == ["pico.Q8_0.gguf"]
    assert "GGUF/gone.gguf can't be fetched: the repository has no such file" in _problem(
        "maker/pico-GGUF/gone.gguf"
    )
    assert "has no weights as safetensors" in _fault_of_empty(hub)


def _fault_of_empty(hub: Hub) -> str:
    hub.repositories["maker/empty"] = {COMMIT: {"README.md": b"hello"}}
    return _problem("maker/empty")


def test_a_cache_that_can_not_be_written(hub: Hub, cache: Path, pico_family: Any) -> None:
    hub.repositories["maker/pico"] = {COMMIT: _files(pico_family.base)}
    cache.write_text("a file where a folder should be")
    told = _problem("maker/pico")
    assert "can't be kept in the hub's cache: " in told
    cache.unlink()
    shutil.rmtree(cache, ignore_errors=True)
