"""Reading YAML that somebody else wrote; writing ours."""

import contextlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gptailor.errors import ConfigError, TailoringError
from gptailor.files.atomic import write_atomically
from gptailor.files.yaml import dump_yaml, parse_yaml, read_yaml

TRICKY = (
    """no on y true ~ null 1:30 010 1e5 .5 0x1f 2024-01-01 << = - # ' { 1_000 .inf .nan +1 1. !x"""
)
words = st.text(
    st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n"), max_size=12
)
words |= st.sampled_from(["", "- a", "a: b", *TRICKY.split()])
scalars = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | words
scalars |= st.floats(allow_nan=False, allow_infinity=False)
plain_data = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(words, inner, max_size=5),
    max_leaves=20,
)


@given(plain_data)
def test_plain_data_reads_back_equal_and_of_the_same_types(data: Any) -> None:
    back = parse_yaml(dump_yaml(data), where="here")
    assert repr(back) == repr(data)


@given(plain_data)
def test_what_we_write_is_read_the_same_by_any_yaml_reader(data: Any) -> None:
    assert repr(yaml.safe_load(dump_yaml(data))) == repr(data)


def test_the_same_list_twice_is_written_twice() -> None:
    item = ["a"] * 9
    assert parse_yaml(dump_yaml([item, item]), where="here") == [item, item]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("True", True),
        ("~", None),
        ("1:30", "1:30"),
        ("010", 10),
        ("1e-3", 1e-3),
        ("1_000", "1_000"),
        ("0x1f", "0x1f"),
        ("2024-01-01", "2024-01-01"),
        ("-.5", -0.5),
        ("'1'", "1"),
        ("<<", "<<"),
    ],
)
def test_a_plain_word_is_what_it_looks_like(text: str, value: object) -> None:
    assert repr(parse_yaml(text, where="here")) == repr(value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", r"here, line 1: not usable as YAML"),
        ("a: 1\nb: *x", r"here, line 2: .*aliases"),
        ("a: &x 1\nb: *x", r"here, line 2: .*aliases"),
        ("a: 1\na: 2", r"line 2: .*the key 'a' appears twice"),
        ("{1: a, '1': b}", r"the key '1' appears twice"),
        ("? [a]\n: 1", r"a key must be a plain word"),
        ("? {a: 1}\n: 1", r"a key must be a plain word"),
        ("a: !!python/object/apply:os.system [ls]", r"tags \(tag:yaml.org,2002:python"),
        ("a: !mine 3", r"tags \(!mine\) are not supported"),
        ("a: !!binary aGk=", r"tags"),
        ("a: !!set {x, y}", r"tags"),
        ("!!bool maybe", r"tags"),
        ("a: 1\n---\nb: 2", r"line 2: .*document"),
        ("a: \x00", r"not usable as YAML: unacceptable character"),
        ("\ta: 1", r"line 1: not usable as YAML"),
        ("[" * 60 + "]" * 60, r"nested deeper than 40 levels"),
        ("a: .nan", r"here: a is nan; give a finite number"),
        ("a: {b: [1, -.inf]}", r"here: a.b\[1\] is -inf; give a finite number"),
        ("a: 1e999", r"here: a is inf"),
        ("a: " + "9" * 30, r"here: a has 30 digits; too large"),
        ("a: " + "9" * 9999, r"here: not usable as YAML: .*(digits|limit)"),
        (".inf", r"the value is inf"),
    ],
)
def test_what_is_not_plain_data_is_refused_with_the_place(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        parse_yaml(text, where="here")
    assert len(error.value.problems) == 1
    assert "\n" not in error.value.problems[0]


@given(st.text(max_size=60) | words.map(lambda text: f"a: {text}\nb: [{text}]"))
def test_any_text_is_plain_data_or_a_users_problem(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_yaml(text, where="here")


def test_the_error_is_of_the_class_asked_for() -> None:
    with pytest.raises(TailoringError):
        parse_yaml("[", where="here", error_type=TailoringError)


def test_a_file_is_read_as_utf_8_with_or_without_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: caf\xc3\xa9\n")
    assert read_yaml(path) == {"name": "café"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"name: caf\xe9\n", r"a\.yaml: not UTF-8 text \(byte 9\)"),
        (b"\xff\xfea\x00", r"not UTF-8"),
        (b"#" * (4 * 2**20 + 1), r"too large"),
    ],
    ids=["latin-1", "utf-16", "large"],
)
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        read_yaml(path)


def test_a_missing_file_a_folder_and_a_file_as_folder_are_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a: 1")
    for path, told in (
        (tmp_path / "none.yaml", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "file" / "a.yaml", "can't be read: Not a directory"),
    ):
        with pytest.raises(ConfigError, match=told):
            read_yaml(path)


def test_an_endless_device_is_not_read_to_its_end() -> None:
    if not os.path.exists("/dev/zero"):
        pytest.skip("needs /dev/zero")
    with pytest.raises(ConfigError, match="is no plain file"):
        read_yaml(Path("/dev/zero"))


def test_writing_makes_the_folder_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.yaml"
    write_atomically(path, "one: 1\n")
    write_atomically(path, "two: 2\n")
    assert path.read_text() == "two: 2\n"
    assert [item.name for item in path.parent.iterdir()] == ["a.yaml"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    write_atomically(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old\n"
    assert [item.name for item in tmp_path.iterdir()] == ["a.yaml"]
