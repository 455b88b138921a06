"""Malformed input ends in sentences that name the file and the key, never in a traceback."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from damage import catalogue
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gptailor.config import load_config
from gptailor.core.tailoring import Tailoring
from gptailor.errors import UserError

READERS: dict[str, Callable[[Path], object]] = {
    "configs": load_config,
    "tailorings": Tailoring.load,
}
CATALOGUE = {kind: catalogue(kind) for kind in READERS}
CASES = [
    pytest.param(kind, case, id=f"{kind}-{number}")
    for kind, catalogue in CATALOGUE.items()
    for number, case in enumerate(catalogue["cases"])
]


def text_of(kind: str, case: dict[str, Any]) -> str:
    if "text" in case:
        return str(case["text"])
    keys = CATALOGUE[kind]["sound"] | case["say"]
    return "".join(f"{key}: {value}\n" for key, value in keys.items())


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 180


@pytest.mark.parametrize("kind", READERS)
def test_the_sound_file_is_sound(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "sound.yaml"
    path.write_text(text_of(kind, {"say": {}}), encoding="utf-8")
    assert READERS[kind](path)


@pytest.mark.parametrize(("kind", "case"), CASES)
def test_each_fault_is_a_sentence_with_file_and_key(
    kind: str, case: dict[str, Any], tmp_path: Path, assert_tells: Callable[..., None]
) -> None:
    path = tmp_path / "my file.yaml"
    path.write_text(text_of(kind, case), encoding="utf-8")
    with pytest.raises(UserError) as error:
        READERS[kind](path)
    assert_tells(error.value.problems, path, case["told"])


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("kind", "case"), CASES)
def test_each_fault_ends_the_command_with_2_and_nothing_is_written(
    kind: str,
    case: dict[str, Any],
    tmp_path: Path,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    sound, bad = tmp_path / "sound.yaml", tmp_path / "bad.yaml"
    sound.write_text(text_of("configs", {"say": {}}), encoding="utf-8")
    bad.write_text(text_of(kind, case), encoding="utf-8")
    words = {
        "configs": ["search", bad],
        "tailorings": ["export", sound, "-o", tmp_path / "out", "--tailoring", bad],
    }[kind]
    code, out, err = run_command(*words)
    assert (code, out) == (2, "")
    n_told = 1 if isinstance(case["told"], str) else len(case["told"])
    assert len(err.splitlines()) == n_told
    assert all(line.startswith(f"error: {bad}") for line in err.splitlines())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "sound.yaml"]


@pytest.mark.parametrize("words", [["search", "a.yaml"], ["export", "run", "-o", "out"], ["init"]])
def test_a_path_in_a_folder_that_is_gone_is_refused(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    code, out, err = run_command(*words)
    assert (code, out) == (2, "")
    assert "the current folder is gone" in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("verb", ["check", "search"])
def test_workers_that_can_not_be_had_are_told_before_the_family_is_loaded(
    verb: str, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "tailor.yaml"
    workers = "{name: local, options: {n_workers: 300}}"
    path.write_text(text_of("configs", {"say": {"workers": workers}}), encoding="utf-8")
    code, out, err = run_command(verb, path)  # its family is nowhere
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("error: workers.options.n_workers: 300 processes are")
    assert err.count("error: ") == 1


@pytest.mark.parametrize(
    ("kind", "verb"), [("configs", "check"), ("configs", "search")], ids=["check", "search"]
)
def test_the_command_line_tells_faults_and_exits_with_2(
    kind: str,
    verb: str,
    tmp_path: Path,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    path = tmp_path / "tailor.yaml"
    path.write_text(text_of(kind, {"say": {"remove": "x", "sed": "1"}}), encoding="utf-8")
    code, out, err = run_command(verb, path)
    assert (code, out) == (2, "")
    assert err.count("error: ") == 2
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\n" + "".join(f"k{n}: 1\n" for n in range(500)), "and 403 more problems"),
        ("".join(f"k{n}: 1\n" for n in range(30_000)), "more than 50,000 keys and values"),
        (f"tasks: [{'{}, ' * 1001}]", "tasks: has 1,001 items; at most 1,000 are allowed"),
        (
            f"family: {{variants: {{{', '.join(f'v{n}: x' for n in range(1001))}}}}}",
            "family.variants: has 1,001 items; at most 1,000 are allowed",
        ),
        ("- " * 3000, "nested deeper than 40 levels"),
        ("[" * 5000, "nested deeper than 40 levels"),
        ("# " + "x" * 5_000_000, "too large; a YAML file may have 4,194,304 bytes at most"),
    ],
    ids=["unknown keys", "keys", "tasks", "variants", "dashes", "brackets", "bytes"],
)
def test_a_file_that_is_too_much_is_refused_at_once(
    text: str, told: str, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    path = tmp_path / "tailor.yaml"
    path.write_text(text, encoding="utf-8")
    code, out, err = run_command("check", path)
    assert (code, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) <= 101


def _never(path: Path) -> None:
    """Leave nothing."""


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (_never, "no such file"),
    "folder": (Path.mkdir, "is a folder"),
    "pipe": (os.mkfifo, "is no plain file (a pipe, say, or a device)"),
    "link to nothing": (lambda path: path.symlink_to("nowhere"), "no such file"),
    "link to itself": (lambda path: path.symlink_to(path), "can't be used: Too many levels"),
    "link to a device": (lambda path: path.symlink_to("/dev/zero"), "is no plain file"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("verb", ["check", "search", "export", "convert"])
def test_what_is_no_file_is_neither_waited_for_nor_read_without_end(
    odd: str, verb: str, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    path, sound = tmp_path / "odd", tmp_path / "sound.yaml"
    sound.write_text(text_of("configs", {"say": {}}), encoding="utf-8")
    make, told = ODD[odd]
    make(path)
    before = sorted(tmp_path.iterdir())
    words = {
        "export": ["export", sound, "-o", tmp_path / "out", "--tailoring", path],
        "convert": ["convert", path, "--layers", 4, "--members", "base,a", "-o", tmp_path / "o"],
    }.get(verb, [verb, path])
    code, out, err = run_command(*words)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path}: ")
    assert told in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["x" * 300, "a\nb", "\x1b[31m", "\u202e"])
@pytest.mark.parametrize(
    "words",
    [
        ["check", "@"],
        ["search", "@"],
        ["search", "sound.yaml", "--out", "@"],
        ["export", "@", "-o", "out"],
        ["export", "sound.yaml", "-o", "@"],
        ["export", "sound.yaml", "-o", "out", "--tailoring", "@"],
        ["report", "@"],
        ["report", "run", "-o", "@"],
        ["evaluate", "@", "--config", "sound.yaml"],
        ["evaluate", "model", "--run", "@"],
        ["convert", "@", "--layers", "4", "--members", "base,a"],
        ["init", "@"],
    ],
    ids=" ".join,
)
def test_a_path_that_can_be_none_is_refused(
    words: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sound.yaml").write_text(text_of("configs", {"say": {}}), encoding="utf-8")
    code, out, err = run_command(*(name if word == "@" else word for word in words))
    assert (code, out) == (2, "")
    (sentence,) = err.splitlines()
    assert sentence.startswith("error: ")
    assert sentence.isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["sound.yaml"]


# -- mutated files: whatever a file says, it is read or its problems are told

junk = st.sampled_from(
    [
        *("null", "true", "[]", "{}", "-1", "0", "1e400", ".nan", "''", "~", "[[]]", "{a: {}}"),
        *(
            "!!int x",
            "&a",
            "*a",
            "? x",
            "- -",
            "|",
            ">",
            "%",
            "@",
            "`",
            "\t",
            "\x00",
            "é",
            "\U0001f600",
        ),
        *(
            "9" * 25,
            "9" * 5000,
            "base:0",
            "base",
            "a:1",
            "[a:1, b:1]",
            "x" * 300,
            "~x",
            "/",
            "..",
            "'",
        ),
    ]
)


@st.composite
def mutated(draw: st.DrawFn, kind: str) -> str:
    """A sound file with pieces swapped, cut, repeated or replaced by junk."""
    text = text_of(kind, {"say": {}})
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(junk | st.text(max_size=4)) + text[stop:]
    return text


@st.composite
def restated(draw: st.DrawFn, kind: str) -> str:
    """A sound file with any value, deep down, replaced by any plain data."""
    plain = yaml.safe_load(text_of(kind, {"say": {}}))
    places = list(_places(plain))
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(places))
        with contextlib.suppress(KeyError, IndexError):
            holder[key] = draw(anything)
    return str(yaml.safe_dump(plain, allow_unicode=True))


def _places(item: Any) -> list[tuple[Any, Any]]:
    keys = item if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
    return [(item, key) for key in keys] + [place for key in keys for place in _places(item[key])]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.just("base:0")
)
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("kind", READERS)
@given(data=st.data())
@settings(
    max_examples=6 * settings.default.max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_mutated_file_is_read_or_its_faults_are_told(
    kind: str, data: st.DataObject, tmp_path: Path
) -> None:
    text = data.draw(mutated(kind) | restated(kind))
    path = tmp_path / "mutated.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        READERS[kind](path)
    except UserError as error:
        told = error.problems
    else:
        return
    assert told
    assert all(sentence.startswith(str(path)) for sentence in told)


@given(content=st.binary(max_size=80))
@example(content=b"\xff\xfe")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", READERS)
def test_any_bytes_are_read_or_their_faults_are_told(
    kind: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "bytes.yaml"
    path.write_bytes(content)
    with contextlib.suppress(UserError):
        READERS[kind](path)
