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

from gptailor.trial import Job
from gptailor.workers.crew import Answer, Lost
from gptailor.workers.messages import Broken, Crashed, Refused
from gptailor.workers.pool import Recipe

__all__ = ["Place", "ProcessCrew", "ending"]


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
        """Start a process; it makes its scorer at once."""
        place = self._places[worker]
        ours, theirs = Pipe()
        # stdin tells the child that we are gone; its stdout must not mix with our results
        process = subprocess.Popen(
            [sys.executable, "-m", "gptailor.workers.child", str(theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=2,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "OMP_NUM_THREADS": str(place.threads), **place.environment},
            process_group=0,  # Ctrl-C is ours to handle
        )
        theirs.close()
        self._children[worker] = _Child(process, ours)
        self._send(worker, (self._recipe, place.device, place.threads))

    def submit(self, worker: int, jobs: Sequence[Job]) -> None:
        """Send jobs to a process."""
        self._send(worker, list(jobs))

    def wait(self) -> tuple[int, Answer]:
        """Wait for the next process that answers or dies."""
        workers = {child.connection: worker for worker, child in self._children.items()}
        assert workers, "nobody to wait for"
        connection = next(one for one in wait(list(workers)) if isinstance(one, Connection))
        worker = workers[connection]
        try:
            answer = connection.recv()
        except (EOFError, OSError):
            return worker, Lost(self._ended(worker))
        if isinstance(answer, Broken):
            self.stop(worker)
            return worker, Lost(answer.reason)
        if isinstance(answer, Refused):
            raise answer.fault()
        if isinstance(answer, Crashed):
            raise RuntimeError(f"a worker failed:\n{answer.traceback}")
        told: Answer = answer  # what our own child sends
        return worker, told

    def stop(self, worker: int) -> None:
        """Kill a process, if it is there: it holds nothing that could be left half done."""
        child = self._children.pop(worker, None)
        if child is None:
            return
        child.connection.close()
        child.process.kill()
        _let_go(child.process)

    def _send(self, worker: int, message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # dead: `wait` tells
            self._children[worker].connection.send(message)

    def _ended(self, worker: int) -> str:
        """How a process ended that closed its pipe."""
        child = self._children.pop(worker)
        child.connection.close()
        return ending(_let_go(child.process))


def _let_go(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that is ending, and free what this one holds of it."""
    if process.stdin is not None:
        process.stdin.close()
    return process.wait()


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
