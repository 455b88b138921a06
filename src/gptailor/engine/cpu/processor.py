"""What the processor is, where that decides how products are best made. Knows what torch tells."""

import functools
from typing import Any

import torch

__all__ = ["has_bfloat16_tiles", "is_intel"]


def has_bfloat16_tiles() -> bool:
    """Whether it multiplies whole tiles of bfloat16 (AMX)."""
    return bool(_capabilities().get("amx_bf16"))


def is_intel() -> bool:
    """Whether it is Intel's, for which MKL is made."""
    return str(_capabilities().get("cpu_name")).startswith("Intel")


@functools.cache
def _capabilities() -> dict[str, Any]:
    """What torch tells of the processor; nothing, before it told that."""
    tell = getattr(torch.cpu, "get_capabilities", dict)
    return dict(tell())
