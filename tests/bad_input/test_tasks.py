"""Malformed tasks end the command with 2 and a sentence with file, key and line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import catalogue, copied, spoil

CATALOGUE = catalogue("tasks")
CASES = CATALOGUE["cases"]


def _rows(case: dict[str, Any]) -> list[str]:
    rows = [
        {"query": f"what is {n}?", "choices": [f"a{n}", f"b{n}", f"c{n}"], "gold": n % 3}
        for n in range(10)
    ]
    if "row" in case:
        number, keys = case["row"]
        rows[number - 1] |= keys
    if "long" in case:
        number, n = case["long"]
        rows[number - 1]["query"] = "x" * n
    if "many" in case:
        number, n = case["many"]
        rows[number - 1]["choices"] = [str(choice) for choice in range(n)]
    rows = [rows[0]] * case["same"] if "same" in case else rows[: case.get("n")]
    lines = [json.dumps(row) for row in rows]
    if "line" in case:
        number, lines[number - 1] = case["line"][0], case["line"][1]
    return lines


@pytest.fixture
def config_of(low_family: Any, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Factory: write the task of a case and a tailor.yaml that asks for it."""

    def write(case: dict[str, Any]) -> Path:
        task = CATALOGUE["sound"] | case.get("task", {})
        task = {key: value for key, value in task.items() if value is not None}
        (tmp_path / "quiz.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
        (tmp_path / "quiz.jsonl").write_text("\n".join(_rows(case)) + "\n", encoding="utf-8")
        spoil(tmp_path, case)
        config = {
            "family": {"base": str(low_family.base), "dtype": "float32"},
            "remove": 1,
            "tasks": [{"name": "./quiz.yaml", "metric": "acc"} | case.get("ask", {})],
        }
        path = tmp_path / "tailor.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    return write


def test_the_sound_task_is_sound(
    config_of: Any, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = run_command("check", config_of({}))
    assert code == 0, err
    assert "quiz: 6 search, 2 selection and 2 test examples" in out


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_a_malformed_task_is_refused(
    case: dict[str, Any], config_of: Any, assert_refused: Callable[..., None]
) -> None:
    assert_refused("check", config_of(case), told=case["told"])


def test_a_token_beyond_the_embedding_is_told_with_its_example(
    config_of: Any, low_family: Any, tmp_path: Path, assert_refused: Callable[..., None]
) -> None:
    """Looked up in the embedding, it would end the search with a error of torch's."""
    path = config_of({"row": [4, {"query": "what is odd?"}]})
    base = copied(low_family.base, tmp_path / "base")
    plain = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    odd = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    plain["added_tokens"].append({"id": 320, "content": "odd", **odd})
    spoil(base, {"text": {"tokenizer.json": json.dumps(plain)}})
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["family"]["base"] = str(base)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    told = "quiz.jsonl, line 4): the tokenizer's token 320 ('odd') has no row in the model's"
    assert_refused("check", path, told=told)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 80
