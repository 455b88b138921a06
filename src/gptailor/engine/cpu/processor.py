"""Properties of the processor that decide which matrix products are fastest."""

import functools
from typing import Any

import torch

__all__ = ["has_bfloat16_tiles", "is_intel"]


def has_bfloat16_tiles() -> bool:
    """Whether it multiplies tiles of bfloat16 (Intel AMX)."""
    return bool(_capabilities().get("amx_bf16"))


def is_intel() -> bool:
    """Whether it is made by Intel."""
    return str(_capabilities().get("cpu_name")).startswith("Intel")


@functools.cache
def _capabilities() -> dict[str, Any]:
    """The processor's capabilities as torch reports them; none where torch is too old to."""
    tell = getattr(torch.cpu, "get_capabilities", dict)
    return dict(tell())
