"""The configs that the repository ships are sound."""

from pathlib import Path

import pytest

from gptailor.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted([*ROOT.glob("configs/*.yaml"), *ROOT.glob("examples/*/tailor.yaml")])


@pytest.mark.sampled(3)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_config_is_sound(path: Path) -> None:
    assert load_config(path).tasks


def test_the_header_of_a_paper_scale_config_tells_weights_command_and_cost() -> None:
    for path in (ROOT / "configs").glob("*.yaml"):
        header = path.read_text(encoding="utf-8").partition("\nfamily:")[0]
        assert all(word in header for word in ("Weights", "Commands", "Cost", "ESTIMATE"))
        assert f"gptailor search   configs/{path.name}" in header
