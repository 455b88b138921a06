from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def examples() -> Path:
    return Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="session")
def demo(examples: Path) -> Path:
    return examples / "smollm2"
