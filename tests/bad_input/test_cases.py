"""Small copies of situations that users have reported, each told in one sentence or note."""

from pathlib import Path
from typing import Any

import pytest

CASES = [
    ("adapter-beside-merged-model", 2, "holds an adapter (adapter_config.json) and a whole model"),
    ("adapter-with-unknown-keys", 0, "has some_future_scaling, which peft"),
    ("git-lfs-pointer", 2, "base/model.safetensors is a Git LFS pointer"),
    ("multi-token-prediction-layer", 0, "(model.layers.46.eh_proj.weight"),
    ("stale-single-file", 0, "both model.safetensors and shards"),
    ("task-words-of-lm-eval", 2, "write acc"),
    ("trainer-output-folder", 2, "models are in its folders checkpoint-500, checkpoint-1000"),
    ("chat-variant-of-plain-base", 0, "differs from the base in its tokenizer, chat template"),
    ("longer-than-n-positions/opt", 2, "there is no 'report_split' here; write test_split"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "code", "words"), CASES)
def test_a_reported_situation_is_told(
    case: str, code: int, words: str, shared_folder: Path, run_command: Any
) -> None:
    config = shared_folder / "cases" / case / "tailor.yaml"
    if not config.is_file():
        pytest.skip(f"{config} is missing")
    found, out, err = run_command("check", config)
    told = [line for line in (out + err).splitlines() if line.startswith(("error: ", "note: "))]
    assert found == code, told
    assert any(words in line for line in told), told
    assert code == 0 or len(told) == 1, told
