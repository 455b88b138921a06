"""The script that trains a variant: what it reads, what it writes, what it refuses."""

import importlib.util
import json
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from gptailor.errors import UserError
from gptailor.family import MemberSpec, load_family

TEXTS = [f"Two and {n} make {n + 2}. The capital of France is Paris." for n in range(40)]
EOS = 1  # of the tiny tokenizer


@pytest.fixture(scope="module")
def script(demo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_variant", demo / "train_variant.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "my texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


@pytest.mark.slow
def test_a_trained_variant_is_one_of_the_family(
    script: ModuleType, pico_family: Any, texts: Path, tmp_path: Path
) -> None:
    told = []
    for name in ("one", "two"):
        options = [str(texts), "--output", str(tmp_path / name), "--base", str(pico_family.base)]
        options += ["--rank", "2", "--tokens", "600", "--length", "32", "--lr", "0.01"]
        script.run(script.parse(options))
        told.append((tmp_path / name / "adapter_model.safetensors").read_bytes())
    assert told[0] == told[1]  # the same seed trains the same adapter
    assert str(tmp_path) not in (tmp_path / "one" / "adapter_config.json").read_text()

    base = MemberSpec(path=str(pico_family.base))
    family = load_family(base, {"new": MemberSpec(path=str(tmp_path / "one"))}, dtype=torch.float32)
    changed = family.states["new"]["model.layers.3.mlp.up_proj.weight"]
    assert not torch.equal(changed, family.states["base"]["model.layers.3.mlp.up_proj.weight"])


def test_a_fault_is_told_without_a_traceback(
    demo: Path,
    texts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = str(demo / "train_variant.py")
    monkeypatch.setattr(sys, "argv", [path, str(texts), "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(path, run_name="__main__")
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path} exists and is not an empty folder")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"text": "fine"}\n{"text": 3}\n', "line 2: must be an object with a text"),
        ('{"text": "fine"}\nnot json\n', "line 2: not JSON"),
        ('{"text": "fine"}\n' + "[" * 100_000, "line 2: not JSON"),
        ('{"text": "short"}\n', "do not fill one row"),
        (b"\xff\xfe", "can't be read as UTF-8"),
    ],
)
def test_texts_at_fault_are_told_in_a_sentence(
    script: ModuleType,
    tiny_tokenizer: Any,
    tmp_path: Path,
    content: str | bytes,
    sentence: str,
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence):
        script.pack_rows(script.read_texts(path), tiny_tokenizer, n_tokens=1000, length=64)


def test_rows_hold_the_texts_in_order_and_no_more_than_asked_for(
    script: ModuleType, tiny_tokenizer: Any
) -> None:
    rows = script.pack_rows(iter(TEXTS), tiny_tokenizer, n_tokens=100, length=32)
    assert rows.shape == (3, 32)
    expected = [token for text in TEXTS for token in [*tiny_tokenizer(text).input_ids, EOS] if text]
    assert rows.flatten().tolist() == expected[:96]


def test_the_learning_rate_rises_and_falls(script: ModuleType) -> None:
    rates = [script.learning_rate(step, 100, 1.0) for step in range(100)]
    assert max(rates) == rates[9] == 1.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert min(rates) > 0


@pytest.mark.parametrize("option", ["--tokens", "--rank", "--lr", "--length", "--batch-rows"])
def test_an_option_of_zero_is_refused(
    script: ModuleType, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script.parse(["texts.jsonl", "--output", "out", option, "0"])
    assert option in capsys.readouterr().err
