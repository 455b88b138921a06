"""Workers that are processes of this machine: one a device, or a few that share the processor.

Each process is told a recipe, makes its own scorer of it, and takes groups of jobs through a pipe.
Whatever kills it (a signal, a driver, the system's lack of memory) is told as a loss. Knows nothing
of models or tasks.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from gptailor.core.trial import Job
from gptailor.errors import RecordError
from gptailor.workers.pool import Recipe
from gptailor.workers.protocol import Broken, heard
from gptailor.workers.supervisor import Answer, Lost

__all__ = ["Place", "ProcessCrew", "ending"]

_GRACE_S = 10.0  # for a process that closed its pipe to end by itself


@dataclass(frozen=True, slots=True)
class Place:
    """What one process is given.

    Args:
        device: Where it runs layers.
        threads: CPU threads.
        environment: Variables of its own.
    """

    device: str
    threads: int
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection


class ProcessCrew:
    """Start, feed and hear processes.

    Args:
        recipe: How each of them makes its scorer.
        places: One for each process.
    """

    def __init__(self, recipe: Recipe, places: Sequence[Place]) -> None:
        self._recipe, self._places = recipe, tuple(places)
        self._children: dict[int, _Child] = {}

    @property
    def n_workers(self) -> int:
        """One for each place."""
        return len(self._places)

    def start(self, worker: int) -> None:
        """Start a process; it makes its scorer at once.

        Raises:
            RecordError: The system starts no more processes.
        """
        place = self._places[worker]
        try:
            ours, theirs = Pipe()
            with theirs:
                process = _started(theirs.fileno(), place)
        except OSError as error:
            raise RecordError(
                f"a worker process can't be started: {error.strerror}; ask for fewer workers or "
                "end other programs, and run the same command again: what was scored is recorded"
            ) from None
        self._children[worker] = _Child(process, ours)
        self._send(worker, (self._recipe, place.device, place.threads))  # `wait` tells its death

    def submit(self, worker: int, jobs: Sequence[Job]) -> Lost | None:
        """Send jobs to a process; one that died before it had them all took none of them."""
        return None if self._send(worker, list(jobs)) else Lost(self._ended(worker))

    def wait(self) -> tuple[int, Answer]:
        """Wait for the next process that answers or dies."""
        workers = {child.connection: worker for worker, child in self._children.items()}
        assert workers, "nobody to wait for"
        connection = next(one for one in wait(list(workers)) if isinstance(one, Connection))
        worker = workers[connection]
        try:
            answer = heard(connection.recv())
        except (EOFError, OSError):  # its end is closed, in the middle of an answer perhaps
            return worker, Lost(self._ended(worker))
        if isinstance(answer, Broken):
            self.stop(worker)
            return worker, Lost(answer.reason)
        told: Answer = answer  # what our own child sends
        return worker, told

    def stop(self, worker: int) -> None:
        """Kill a process, if it is there: it holds nothing that could be left half done."""
        child = self._children.pop(worker, None)
        if child is not None:
            child.connection.close()
            child.process.kill()
            _let_go(child.process)

    def _send(self, worker: int, message: object) -> bool:
        """Whether it was taken; the other end reads while this one writes, however much it is."""
        try:
            self._children[worker].connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _ended(self, worker: int) -> str:
        """How a process ended that closed its pipe."""
        child = self._children.pop(worker)
        child.connection.close()
        code = _let_go(child.process)
        return ending(code) if code else "hung up"  # nobody asked it to end well


def _started(descriptor: int, place: Place) -> subprocess.Popen[bytes]:
    """A new process; its stdin tells it that we are gone, its stdout must not mix with ours."""
    return subprocess.Popen(
        # -P: nothing of the folder that we happen to be in is imported
        [sys.executable, "-P", "-m", "gptailor.workers.child", str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=2,
        pass_fds=[descriptor],
        env={**os.environ, "OMP_NUM_THREADS": str(place.threads), **place.environment},
        process_group=0,  # Ctrl-C is ours to handle
    )


def _let_go(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for a process that is ending, and free what this one holds of it.

    Returns:
        Its exit status; None if it did not end by itself.
    """
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_GRACE_S)
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # else its driver holds it: leave it
        process.wait(_GRACE_S)
    return None


def ending(code: int) -> str:
    """An exit status in words.

    Example:
        >>> ending(-9), ending(3)
        ('killed by SIGKILL', 'ended with exit code 3')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
