"""What runs in a worker, in a process or on a cluster, and its errors as messages."""

import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from gptailor.core.trial import Evaluation, Job
from gptailor.errors import UserError, is_out_of_memory
from gptailor.workers.pool import Evaluator, EvaluatorFactory
from gptailor.workers.supervisor import Lost, Ready

__all__ = ["Raised", "Worker", "unwrapped"]

T = TypeVar("T")

# how the libraries that drive a device begin their messages
_DEVICE_ERRORS = ("CUDA error", "HIP error", "cuDNN error", "NCCL error", "MPS backend")


@dataclass(frozen=True, slots=True)
class Raised:
    """An error that every worker would have: the input is invalid, or our code is wrong."""

    error: Exception

    @classmethod
    def bug(cls) -> "Raised":
        """The exception that is being handled, as text: not every exception can be sent.

        Its traceback is a note of the error.
        """
        error = sys.exception()
        sent = RuntimeError(f"a worker failed: {type(error).__name__}: {error}")
        sent.add_note(traceback.format_exc())
        return cls(sent)


class Worker:
    """An evaluator that is made here; if a device or memory fails, the worker is lost."""

    def __init__(self, factory: EvaluatorFactory, device: str, threads: int) -> None:
        self._make = partial(factory, device=device, threads=threads)
        self._evaluator: Evaluator | None = None

    def begin(self) -> Ready | Lost | Raised:
        """Make the evaluator."""
        made = _catching(self._make)
        if isinstance(made, Lost | Raised):
            return made
        self._evaluator = made
        return Ready()

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation] | Lost | Raised:
        """Run jobs."""
        assert self._evaluator is not None, "asked before it was ready"
        return _catching(partial(self._evaluator.evaluate, jobs))


def unwrapped(answer: T | Raised) -> T:
    """Return a worker's answer, or raise the error that it holds."""
    if isinstance(answer, Raised):
        raise answer.error
    return answer


def _catching(action: Callable[[], T]) -> T | Lost | Raised:
    try:
        return action()
    except UserError as error:
        return Raised(type(error)(error.problems))
    except Exception as error:  # noqa: BLE001  # raised again by `unwrapped`
        reason = _machine_failure(error)
        return Raised.bug() if reason is None else Lost(reason)


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
