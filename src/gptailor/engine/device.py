"""The devices of this machine: names, dtypes, and copies to them that wait for nothing."""

import platform
import timeit
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor

from gptailor.errors import ConfigError

__all__ = ["DTYPES", "cpu_name", "device_of", "dtype_of", "moved", "wait_for"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_of(wanted: str) -> str:
    """The device to run on, of ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Raises:
        ConfigError: This machine has no such device.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    there = {"cpu": True, "cuda": int(number or 0) < n_gpus, "mps": has_mps}
    if not there[kind]:
        raise ConfigError(
            f"engine.device: {wanted} is not available; PyTorch sees {n_gpus} CUDA devices: use "
            "auto or cpu, or install a PyTorch build for your hardware"
        )
    return wanted


def dtype_of(wanted: str, device: str) -> torch.dtype:
    """The dtype to compute in; `auto` is bfloat16 on a GPU, and on a CPU the faster of the two."""
    if wanted != "auto":
        return DTYPES[wanted]
    return torch.bfloat16 if device != "cpu" else _faster_on_cpu()


@cache
def _faster_on_cpu() -> torch.dtype:
    """The dtype with the best time of a few matrix products of a small layer's size."""

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        product = partial(torch.nn.functional.linear, left, right)
        return min(timeit.repeat(product, number=1, repeat=4))

    return min((torch.float32, torch.bfloat16), key=seconds)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device, unless it is there.

    To a GPU through pinned memory: a copy from pageable memory waits for all work queued before.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def wait_for(device: torch.device) -> None:
    """Wait until a device has done all queued work; a clock read before that shows too little."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def cpu_name() -> str:
    """The processor's name, as far as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
