"""Errors in a worker, as messages that can be sent, and what they become where they arrive."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gptailor.errors import UserError, is_out_of_memory

__all__ = ["Broken", "Crashed", "Refused", "catching", "unwrapped"]

T = TypeVar("T")

# how the libraries that drive a device begin their messages
_DEVICE_ERRORS = ("CUDA error", "HIP error", "cuDNN error", "NCCL error", "MPS backend")


@dataclass(frozen=True, slots=True)
class Refused:
    """The user's input is invalid: every worker would refuse it."""

    kind: type[UserError]
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class Broken:
    """A device or memory failed; the worker can't go on."""

    reason: str  # the driver's message


@dataclass(frozen=True, slots=True)
class Crashed:
    """An error in our code, as text: not every exception can be sent."""

    traceback: str


def catching(action: Callable[[], T]) -> T | Refused | Broken | Crashed:
    """Run something in a worker; an exception is returned as a message."""
    try:
        return action()
    except UserError as error:
        return Refused(type(error), error.problems)
    except Exception as error:  # noqa: BLE001  # raised again by `unwrapped`
        reason = _machine_failure(error)
        return Crashed(traceback.format_exc()) if reason is None else Broken(reason)


def unwrapped(answer: T | Refused | Broken | Crashed) -> T | Broken:
    """Return a worker's answer; raise an error that every other worker would have, too.

    Raises:
        UserError: The input is invalid.
        RuntimeError: Our code is wrong.
    """
    if isinstance(answer, Refused):
        raise answer.kind(answer.problems)
    if isinstance(answer, Crashed):
        raise RuntimeError(f"a worker failed:\n{answer.traceback}")
    return answer


def _machine_failure(error: Exception) -> str | None:
    """How a device or memory failed, or None; known by the message, for torch may be missing."""
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not isinstance(error, RuntimeError | MemoryError):
        return None
    if is_out_of_memory(error):
        return f"stopped by lack of memory: {message}"
    if type(error).__name__ == "AcceleratorError" or message.startswith(_DEVICE_ERRORS):
        return f"stopped by its device: {message}"
    return None
