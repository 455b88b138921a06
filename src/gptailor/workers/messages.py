"""What a worker says when something went wrong in it. Knows nothing of how it is sent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gptailor.errors import UserError

__all__ = ["Broken", "Crashed", "Refused", "guarded"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Refused:
    """The input is at fault: every worker would say the same.

    Args:
        kind: Of the error.
        faults: Its sentences.
    """

    kind: type[UserError]
    faults: Sequence[str]

    def fault(self) -> UserError:
        """The error, to be raised where somebody hears it."""
        return self.kind(self.faults)


@dataclass(frozen=True, slots=True)
class Broken:
    """A device failed; the worker is of no more use.

    Args:
        reason: What the driver says.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Crashed:
    """A fault of ours.

    Args:
        traceback: Where.
    """

    traceback: str


def guarded(action: Callable[[], T]) -> T | Refused | Broken:
    """Do something in a worker; a user's fault and a device's failure come back as messages."""
    try:
        return action()
    except UserError as fault:
        return Refused(type(fault), fault.faults)
    except RuntimeError as fault:
        import torch  # there already, if this is torch's

        told = (str(fault).strip() or type(fault).__name__).splitlines()[0]
        if not isinstance(fault, torch.AcceleratorError) and not told.startswith("CUDA error"):
            raise
        return Broken(f"stopped by its device: {told}")
