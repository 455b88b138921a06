"""Malformed search results end in sentences that name the file and the key."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import catalogue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptailor.convert.published import convert_published
from gptailor.convert.published_file import read_published
from gptailor.core.tailoring import Tailoring
from gptailor.errors import UserError

CATALOGUE = catalogue("published")


def text_of(case: dict[str, Any]) -> str:
    if "text" in case:
        return str(case["text"])
    keys = {key: value for key, value in (CATALOGUE["sound"] | case["say"]).items() if value}
    return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in keys.items()) + "}"


def convert(path: Path, case: dict[str, Any]) -> Tailoring:
    config, _ = read_published(path)
    return convert_published(
        config,
        n_layers=case.get("layers", CATALOGUE["layers"]),
        members=case.get("members", CATALOGUE["members"]),
        where=str(path),
    )[0]


def test_the_sound_file_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "sound.json"
    path.write_text(text_of({"say": {}}), encoding="utf-8")
    assert len(convert(path, {}).layers) == 3


@pytest.mark.parametrize("case", CATALOGUE["cases"], ids=range(len(CATALOGUE["cases"])))
def test_each_fault_is_a_sentence_with_file_and_key(
    case: dict[str, Any], tmp_path: Path, assert_tells: Callable[..., None]
) -> None:
    path = tmp_path / "my result.json"
    path.write_text(text_of(case), encoding="utf-8")
    with pytest.raises(UserError) as error:
        convert(path, case)
    assert_tells(error.value.problems, path, case["told"])


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (["llama", "math", "code"], "members: the first must be 'base', not 'llama'"),
        ([], "members: the first must be 'base'"),
        (["base", "math", "math"], "members: 'math' is named 2 times"),
        (["base", "base", "code"], "members: 'base' is named 2 times"),
        (["base", "org/math", "code"], "members: 'org/math' is not a member's name"),
        (["base", "", "code"], "members: '' is not a member's name"),
    ],
)
def test_names_that_are_no_members_are_told(members: list[str], told: str) -> None:
    with pytest.raises(UserError) as error:
        convert_published({}, n_layers=5, members=members)
    assert any(told in sentence for sentence in error.value.problems)


@pytest.mark.parametrize("n_layers", [0, -1, 10_001])
def test_a_number_of_layers_that_no_model_has_is_told(n_layers: int) -> None:
    with pytest.raises(UserError, match="layers: must be a number from 1 to 10,000"):
        convert_published({}, n_layers=n_layers, members=["base"])


def test_many_faults_are_told_as_the_first_and_a_number(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    bad = {f"layer_{layer}_candidate_0": "x" for layer in range(40)}
    path.write_text(json.dumps(bad), encoding="utf-8")
    with pytest.raises(UserError) as error:
        convert(path, {"layers": 40, "members": ["base", "a"]})
    assert len(error.value.problems) == 13
    assert "and 28 more problems" in error.value.problems[-1]


def test_files_that_are_no_text_are_told(tmp_path: Path) -> None:
    told = {
        "missing.json": "no such file",
        "folder": "is a folder",
        "binary.json": "not UTF-8 text (byte 0)",
        "deep.json": "not usable as JSON",
        "digits.json": "not usable as JSON",
        "huge.json": "too large",
    }
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "deep.json").write_text("[" * 200_000, encoding="utf-8")
    (tmp_path / "digits.json").write_text('{"remove_idx_0": ' + "9" * 5000 + "}", encoding="utf-8")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**36)  # sparse: takes no room
    for name, sentence in told.items():
        with pytest.raises(UserError) as error:
            read_published(tmp_path / name)
        assert sentence in str(error.value)
        assert str(error.value).startswith(str(tmp_path / name))


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
keys = st.sampled_from([*CATALOGUE["sound"], "remove_idx_2", "layer_1_candidate_0", "layer_9_x"])


@given(changes=st.dictionaries(keys, anything, max_size=3), wrapped=st.booleans())
@settings(
    max_examples=2 * settings.default.max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_mutated_file_is_read_or_its_faults_are_told(
    changes: dict[str, Any], wrapped: bool, tmp_path: Path
) -> None:
    plain = json.loads(text_of({"say": {}})) | changes
    path = tmp_path / "mutated.json"
    path.write_text(json.dumps({"best": {"config": plain}} if wrapped else plain), encoding="utf-8")
    with contextlib.suppress(UserError):
        tailoring = convert(path, {})
        tailoring.check(CATALOGUE["members"], CATALOGUE["layers"])
        assert Tailoring.from_yaml(tailoring.to_yaml()) == tailoring


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_their_faults_are_told(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bytes.json"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        convert(path, {})
