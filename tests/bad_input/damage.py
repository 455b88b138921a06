"""Read a catalogue, and spoil a copy of a folder of tensors as a case of it says."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")


def catalogue(name: str) -> dict[str, Any]:
    """Read ``name.yaml`` of this folder; in C, for each is read by every process that tests."""
    text = (Path(__file__).parent / f"{name}.yaml").read_text(encoding="utf-8")
    plain: dict[str, Any] = yaml.load(text, yaml.CSafeLoader)
    return plain


def copied(source: Path, target: Path) -> Path:
    """Copy a folder by hard links; `spoil` never writes into a file, it puts another there."""
    return Path(shutil.copytree(source, target, copy_function=os.link))


def spoil(folder: Path, case: Mapping[str, Any]) -> None:
    """Do to a copied folder what each key of a case says; other keys are left alone."""
    for key, value in case.items():
        if key in _WAYS:
            _WAYS[key](folder, value)


def _fresh(path: Path) -> Path:
    path.unlink(missing_ok=True)
    return path


def _text(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        _fresh(folder / name).write_text(text, encoding="utf-8")


def _bytes(folder: Path, files: Mapping[str, str]) -> None:
    for name, digits in files.items():
        _fresh(folder / name).write_bytes(bytes.fromhex(digits))


def _deep(folder: Path, files: Mapping[str, int]) -> None:
    _text(folder, {name: "[" * depth for name, depth in files.items()})


def _sparse(folder: Path, files: Mapping[str, int]) -> None:
    for name, size in files.items():
        with _fresh(folder / name).open("wb") as file:
            file.truncate(size)


def _json(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, fields in files.items():
        plain = json.loads((folder / name).read_text(encoding="utf-8")) | fields
        _text(folder, {name: json.dumps(plain)})


def _gone(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).unlink()


def _cut(folder: Path, files: Mapping[str, int]) -> None:
    for name, size in files.items():
        content = (folder / name).read_bytes()[:size]
        _fresh(folder / name).write_bytes(content)


def _folder(folder: Path, names: list[str]) -> None:
    for name in names:
        _fresh(folder / name).mkdir()


def _pipe(folder: Path, names: list[str]) -> None:
    for name in names:
        os.mkfifo(_fresh(folder / name))


def _link(folder: Path, links: Mapping[str, str]) -> None:
    for name, target in links.items():
        _fresh(folder / name).symlink_to(target)


def _index(folder: Path, places: Any) -> None:
    shutil.move(folder / "model.safetensors", folder / "all.safetensors")
    _text(folder, {"model.safetensors.index.json": json.dumps({"weight_map": places})})


def _state(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = next(folder / name for name in _WEIGHTS if (folder / name).exists())
    state = load_file(path)
    change(state)
    state = {name: tensor.clone() for name, tensor in state.items()}
    save_file(state, _fresh(path), metadata={"format": "pt"})


def _tensors(folder: Path, changes: Mapping[str, Any]) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        for name, how in changes.items():
            if how == "gone":
                del state[name]
            elif "shape" in how:
                state[name] = torch.zeros(how["shape"])
            elif "fill" in how:
                state[name].view(-1)[3] = how["fill"]
            else:
                state[name] = state[name].to(getattr(torch, how["dtype"]))

    _state(folder, change)


def _layers(folder: Path, n: int) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        for name in [name for name in state if name.startswith("model.layers.")]:
            if int(name.split(".")[2]) >= n:
                del state[name]

    _state(folder, change)
    _json(folder, {"config.json": {"num_hidden_layers": n}})


def _rows(folder: Path, n: int) -> None:
    """Another vocabulary, and no tokenizer to say which rows are whose."""

    def change(state: dict[str, torch.Tensor]) -> None:
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            state[name] = state[name][:n]

    _state(folder, change)
    _json(folder, {"config.json": {"vocab_size": n}})
    _gone(folder, [path.name for path in folder.glob("token*.json")])


def _swap(folder: Path, ids: list[int]) -> None:
    """Let two tokens change places."""
    plain = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = plain["model"]["vocab"]
    one, two = (next(token for token, at in vocabulary.items() if at == wanted) for wanted in ids)
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    _text(folder, {"tokenizer.json": json.dumps(plain)})


_WAYS: dict[str, Callable[[Path, Any], None]] = {
    "text": _text,
    "bytes": _bytes,
    "deep": _deep,
    "sparse": _sparse,
    "json": _json,
    "gone": _gone,
    "cut": _cut,
    "folder": _folder,
    "pipe": _pipe,
    "link": _link,
    "index": _index,
    "tensors": _tensors,
    "layers": _layers,
    "rows": _rows,
    "swap": _swap,
}
