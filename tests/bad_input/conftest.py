"""What every sentence about a malformed file must be, and what may be left behind: nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assert_tells() -> Callable[[Sequence[str], Path, str | Sequence[str]], None]:
    """Hold problems against what a case of a catalogue says of them."""

    def check(problems: Sequence[str], path: Path, told: str | Sequence[str]) -> None:
        expected = [told] if isinstance(told, str) else told
        assert len(problems) == len(expected), problems
        for sentence in problems:
            assert sentence.startswith(str(path))
            assert "\n" not in sentence
            assert len(sentence.removeprefix(str(path))) < 400
        for part in expected:
            assert any(part in sentence for sentence in problems), problems

    return check


@pytest.fixture
def assert_refused(
    tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> Callable[..., None]:
    """Run a command that must end with 2, a sentence a error, and leave the folder as it was."""

    def run(*words: object, told: str | Sequence[str]) -> None:
        before = _listing(tmp_path)
        code, out, err = run_command(*words)
        lines = [line for line in err.splitlines() if not line.startswith("loading ")]
        assert (code, out) == (2, ""), err
        expected = [told] if isinstance(told, str) else told
        assert len(lines) == len(expected), lines
        for line in lines:
            assert line.startswith("error: "), lines
            assert len(line) < 1500
        for part in expected:
            assert any(part in line for line in lines), lines
        assert _listing(tmp_path) == before

    return run


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    found = [(path, path.lstat()) for path in sorted(folder.rglob("*"))]
    return [(str(path), fact.st_size, fact.st_mtime_ns) for path, fact in found]
