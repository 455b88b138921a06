"""Memory of this process, now and at its peak, as the system or the device counts it."""

import resource
import sys
from pathlib import Path

import torch

__all__ = ["held_bytes", "peak_bytes"]

_STATM = Path("/proc/self/statm")


def held_bytes(device: str) -> int:
    """Bytes held now: by the process, or by its tensors on a CUDA device.

    On systems without ``/proc``, the most held so far.
    """
    if device.startswith("cuda"):
        return torch.cuda.memory_allocated(device)
    if not _STATM.exists():
        return peak_bytes(device)
    return int(_STATM.read_text().split()[1]) * resource.getpagesize()


def peak_bytes(device: str) -> int:
    """Most bytes held so far: by the process, or by its tensors on a CUDA device."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
