"""The devices of this machine: their names, and copies to them that wait for nothing."""

import platform
from pathlib import Path

import torch
from torch import Tensor

from gptailor.errors import ConfigError

__all__ = ["cpu_name", "device_of", "moved", "wait_for"]


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
