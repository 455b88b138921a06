"""Worker processes that can import the wayward scorers."""

import os
from pathlib import Path

import pytest


@pytest.fixture
def scorers_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put this folder on the path of the processes that are started."""
    here = str(Path(__file__).parent)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", here if before is None else f"{here}{os.pathsep}{before}")
