"""Workers that are processes of this machine: one a device, or several that share its cores.

Each is started as ``python -m gptailor.workers.processes FD``, makes its own evaluator and receives
groups of jobs through a pipe, whose end is FD. Its standard input ends with the parent process.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

from gptailor.core.trial import Job
from gptailor.errors import RecordError
from gptailor.workers.pool import EvaluatorFactory
from gptailor.workers.supervisor import Answer, Lost
from gptailor.workers.worker import Raised, Worker, unwrapped

__all__ = ["ProcessBackend", "Slot", "format_exit"]

_GRACE_S = 10.0  # for a process that closed its pipe to end by itself
_PR_SET_PDEATHSIG = 1  # of prctl(2)


@dataclass(frozen=True, slots=True)
class Slot:
    """The device and cores of one process."""

    device: str
    threads: int
    environment: Mapping[str, str] = field(default_factory=dict)  # variables of its own


@dataclass(frozen=True, slots=True)
class _Child:
    process: subprocess.Popen[bytes]
    connection: Connection


class ProcessBackend:
    """Start processes, send jobs to them and receive their answers."""

    def __init__(self, factory: EvaluatorFactory, slots: Sequence[Slot]) -> None:
        self._factory, self._slots = factory, tuple(slots)
        self._children: dict[int, _Child] = {}

    @property
    def n_workers(self) -> int:
        """One for each slot."""
        return len(self._slots)

    def start(self, worker: int) -> None:
        """Start a process; it makes its evaluator at once."""
        slot = self._slots[worker]
        try:
            ours, theirs = Pipe()
            with theirs:
                process = _started(theirs.fileno(), slot)
        except OSError as error:
            raise RecordError(
                f"a worker process can't be started: {error.strerror}; ask for fewer workers or "
                "end other programs, and run the same command again: what was scored is recorded"
            ) from None
        self._children[worker] = _Child(process, ours)
        self._send(worker, (self._factory, slot.device, slot.threads))  # else `wait` reports a loss

    def submit(self, worker: int, jobs: Sequence[Job]) -> Lost | None:
        """Send jobs to a process; one that ended before it had them all took none of them."""
        return None if self._send(worker, list(jobs)) else Lost(self._exit_of(worker))

    def wait(self) -> tuple[int, Answer]:
        """Wait for the next process that answers or ends."""
        workers = {child.connection: worker for worker, child in self._children.items()}
        assert workers, "no process to wait for"
        connection = next(one for one in wait(list(workers)) if isinstance(one, Connection))
        worker = workers[connection]
        try:
            answer: Answer = unwrapped(connection.recv())
        except (EOFError, OSError):  # its end is closed, perhaps in the middle of an answer
            return worker, Lost(self._exit_of(worker))
        if isinstance(answer, Lost):
            self.stop(worker)
        return worker, answer

    def stop(self, worker: int) -> None:
        """Kill a process, if it is there: it writes nothing that could be left half done."""
        child = self._children.pop(worker, None)
        if child is not None:
            child.connection.close()
            child.process.kill()
            _reap(child.process)

    def _send(self, worker: int, message: object) -> bool:
        """Whether it was received; the other end reads while this one writes, whatever its size."""
        try:
            self._children[worker].connection.send(message)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def _exit_of(self, worker: int) -> str:
        """How a process ended that closed its pipe."""
        child = self._children.pop(worker)
        child.connection.close()
        code = _reap(child.process)
        return format_exit(code) if code else "closed its pipe"  # nobody asked it to end


def _started(descriptor: int, slot: Slot) -> subprocess.Popen[bytes]:
    """A new process; its stdin ends with this process, its stdout must not mix with ours."""
    return subprocess.Popen(
        # -P: nothing of the current folder is imported
        [sys.executable, "-P", "-m", "gptailor.workers.processes", str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=2,
        pass_fds=[descriptor],
        env={**os.environ, "OMP_NUM_THREADS": str(slot.threads), **slot.environment},
        process_group=0,  # Ctrl-C is ours to handle
    )


def _reap(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for a process that is ending; its exit status, or None if it did not end by itself."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_GRACE_S)
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):  # else a driver blocks it: leave it
        process.wait(_GRACE_S)
    return None


def format_exit(code: int) -> str:
    """An exit status in words.

    Example:
        >>> format_exit(-9), format_exit(3)
        ('killed by SIGKILL', 'ended with exit code 3')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _main(descriptor: int) -> None:
    """Serve one pipe, in a process of its own, until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):  # Linux kills it even where Python waits
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    try:
        worker = Worker(*connection.recv())
        answer: object = worker.begin()
        connection.send(answer)
        while not isinstance(answer, Lost | Raised):
            answer = worker.evaluate(connection.recv())
            connection.send(answer)
    except (EOFError, ConnectionError):
        return  # the other end is closed
    except Exception:  # a message can't be unpickled here, or an answer can't be pickled
        connection.send(Raised.bug())
        raise


def _exit_with_parent() -> None:
    """End this process as soon as the parent process has ended, whatever it is doing."""
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
