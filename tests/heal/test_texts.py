"""Rows to train on and to measure on: whole, closed, and of unlike texts."""

import json
from pathlib import Path
from typing import Any

import pytest

from gptailor.errors import ConfigError
from gptailor.heal.texts import read_healing_texts


def texts(path: Path, n: int) -> Path:
    lines = [json.dumps({"text": f"text {i // 2} of many"}) for i in range(n)]  # each twice
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_no_text_is_trained_on_and_measured_on(tmp_path: Path, tiny_tokenizer: Any) -> None:
    path = texts(tmp_path / "a.jsonl", 300)
    limits = {"n_tokens": 1600, "length": 20, "seed": 3}
    rows = read_healing_texts([path], tiny_tokenizer, **limits)
    assert {len(row.ids) for row in (*rows.train, *rows.held_out)} == {20}
    assert (len(rows.train), len(rows.held_out)) == (80, 5)
    parts = [
        tiny_tokenizer.decode([t for row in part for t in row.ids]).split("</s>")[:-1]
        for part in (rows.train, rows.held_out)
    ]
    assert len(set(parts[0])) == len(parts[0]) > 50
    assert not set(parts[0]) & set(parts[1])
    end = tiny_tokenizer.eos_token_id
    for row in rows.train:
        starts = {i + 1 for i, token in enumerate(row.ids[:-1]) if token == end}
        assert {i for i, position in enumerate(row.positions) if i and not position} == starts
    assert rows == read_healing_texts([path], tiny_tokenizer, **limits)
    other = read_healing_texts([path], tiny_tokenizer, **limits | {"seed": 4})
    assert other.digest != rows.digest
    assert other.files == rows.files


def test_positions_of_a_long_text_stay_within_a_row(tmp_path: Path, tiny_tokenizer: Any) -> None:
    words = "gold iron Paris Rome three and two make five " * 20
    (tmp_path / "a.txt").write_text(f"{words}\n\n{words[5:]}\n\n{words[9:]}", encoding="utf-8")
    rows = read_healing_texts(
        [tmp_path / "a.txt"], tiny_tokenizer, n_tokens=300, length=20, seed=0
    ).train
    end = tiny_tokenizer.eos_token_id
    for row in rows:
        n = row.ids.index(end) + 1 if end in row.ids else 20
        assert row.positions == (*range(n), *range(20 - n))


def test_too_few_tokens_are_refused(tmp_path: Path, tiny_tokenizer: Any) -> None:
    path = texts(tmp_path / "a.jsonl", 4)
    with pytest.raises(ConfigError, match=r"a\.jsonl have too few tokens for a row of 20"):
        read_healing_texts([path], tiny_tokenizer, n_tokens=99, length=20, seed=0)
    path.write_text("\n\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no text"):
        read_healing_texts([path], tiny_tokenizer, n_tokens=99, length=20, seed=0)
