"""What a worker says when something went wrong in it, and what that means to who hears it.

Knows nothing of how it is sent.
"""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gptailor.errors import UserError, is_out_of_memory

__all__ = ["Broken", "Crashed", "Refused", "guarded", "heard"]

T = TypeVar("T")

# how the libraries that a device is driven with begin what they say of it
_OF_DEVICES = ("CUDA error", "HIP error", "cuDNN error", "NCCL error", "MPS backend")


@dataclass(frozen=True, slots=True)
class Refused:
    """The input is invalid: every worker would say the same.

    Args:
        kind: Of the error.
        problems: Its sentences.
    """

    kind: type[UserError]
    problems: Sequence[str]


@dataclass(frozen=True, slots=True)
class Broken:
    """A device failed, or memory; the worker is of no more use.

    Args:
        reason: What the driver says.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """A error of ours. As text, for not every exception can be sent.

    Args:
        traceback: Where.
    """

    traceback: str


def guarded(action: Callable[[], T]) -> T | Refused | Broken | Crashed:
    """Do something in a worker; what goes wrong comes back as a message."""
    try:
        return action()
    except UserError as error:
        return Refused(type(error), error.problems)
    except Exception as error:  # noqa: BLE001  # raised again where somebody hears it
        reason = _of_the_machine(error)
        return Crashed(traceback.format_exc()) if reason is None else Broken(reason)


def heard(told: T | Refused | Broken | Crashed) -> T | Broken:
    """Take what a worker said; a error that no other worker would be spared is raised.

    Raises:
        UserError: The input is invalid.
        RuntimeError: We are.
    """
    if isinstance(told, Refused):
        raise told.kind(told.problems)
    if isinstance(told, Crashed):
        raise RuntimeError(f"a worker failed:\n{told.traceback}")
    return told


def _of_the_machine(error: Exception) -> str | None:
    """How a machine failed, if it is that; told by its words, for torch may not be there."""
    told = (str(error).strip() or type(error).__name__).splitlines()[0]
    if not isinstance(error, RuntimeError | MemoryError):
        return None
    if is_out_of_memory(error):
        return f"stopped by lack of memory: {told}"
    if type(error).__name__ == "AcceleratorError" or told.startswith(_OF_DEVICES):
        return f"stopped by its device: {told}"
    return None
