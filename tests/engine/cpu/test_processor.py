"""What the processor is, held against what the system says of it."""

from pathlib import Path

import pytest
import torch

from gptailor.engine.cpu import processor

CPUINFO = Path("/proc/cpuinfo")


@pytest.mark.skipif(
    not CPUINFO.exists() or not hasattr(torch.cpu, "get_capabilities"),
    reason="needs Linux and a torch that tells",
)
def test_it_is_what_the_system_says() -> None:
    text = CPUINFO.read_text(encoding="utf-8")
    assert processor.has_bfloat16_tiles() == (" amx_bf16" in text)
    assert processor.is_intel() == ("GenuineIntel" in text)


def test_a_torch_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    told = processor._capabilities.__wrapped__()
    assert told == {}
