"""Repositories of the hub: its cache as it lies on disk, and a small hub of our own."""

import json
import shlex
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from transformers import PreTrainedModel

from gptailor.errors import FamilyError
from gptailor.family import MemberSpec, load_family

COMMIT, OLDER = "1234567890" * 4, "abcdef0123" * 4


@dataclass
class Hub:
    """Repositories by name, as revision to files; and what was asked for."""

    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    statuses: dict[str, tuple[int, str]] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a path of the hub's API."""
        parts = path.strip("/").split("/")
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        known = (200, "") if name in self.repositories else (401, "RepoNotFound")
        status, code = self.statuses.get(name, known)
        if status != 200 and (code != "GatedRepo" or not api):  # all may read what is gated
            key = "X-Error-Message" if " " in code else "X-Error-Code"
            return status, {key: code} if code else {}, b"{}"
        rest = parts[4:] if api else parts[2:]
        at = rest[1] if len(rest) > 1 else "main"
        revision = {"main": COMMIT, "v1": OLDER}.get(at, at)
        files = self.repositories[name].get(revision)
        if files is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if not api:
            return self._file(files, "/".join(rest[2:]), revision)
        if rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": k, "size": len(v), "oid": sha1(v).hexdigest()}
                for k, v in files.items()
            ]
            return 200, {}, json.dumps(tree).encode()
        siblings = [{"rfilename": file} for file in files]
        return 200, {}, json.dumps({"id": name, "sha": revision, "siblings": siblings}).encode()

    def _file(
        self, files: dict[str, bytes], file: str, commit: str
    ) -> tuple[int, dict[str, str], bytes]:
        if file not in files:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        headers = {"ETag": f'"{sha1(files[file]).hexdigest()}"', "X-Repo-Commit": commit}
        return 200, headers, files[file]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's library, which is offline."""
    folder = tmp_path / "hub cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on localhost that the hub's library takes for the real one."""
    served = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _send(self, *, body: bool) -> None:
            status, headers, content = served.answer(self.path.partition("?")[0])
            if body and "/resolve/" in self.path and status == 200:
                served.fetched.append(self.path.rpartition("/")[2])
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self._send(body=True)

        def do_HEAD(self) -> None:
            self._send(body=False)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


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
        )
    }
    hub.repositories["maker/pico"] = {COMMIT: files | waste}
    family = _load("maker/pico")
    assert sorted(hub.fetched) == sorted(files)
    assert family.digests == _load(str(pico_family.base)).digests
    assert f"maker/pico was read from the model hub at commit {COMMIT}" in family.notes


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
