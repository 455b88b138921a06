"""What every sentence about a malformed file must be."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def assert_tells() -> Callable[[Sequence[str], Path, str | Sequence[str]], None]:
    """Hold faults against what a case of a catalogue says of them."""

    def check(faults: Sequence[str], path: Path, told: str | Sequence[str]) -> None:
        expected = [told] if isinstance(told, str) else told
        assert len(faults) == len(expected), faults
        for sentence in faults:
            assert sentence.startswith(str(path))
            assert "\n" not in sentence
            assert len(sentence.removeprefix(str(path))) < 400
        for part in expected:
            assert any(part in sentence for sentence in faults), faults

    return check
