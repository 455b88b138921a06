"""The main module of a worker process: make an evaluator, then run groups of jobs.

Started as ``python -m gptailor.workers.child FD`` by `gptailor.workers.processes`. FD is one end of
a pipe; standard input ends when the parent process does.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import traceback
from functools import partial
from multiprocessing.connection import Connection

from gptailor.workers.protocol import Broken, Crashed, Refused, catching
from gptailor.workers.supervisor import Ready

__all__: list[str] = []

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(descriptor: int) -> None:
    """Serve one pipe until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _be_killed_with_parent()
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    try:
        _serve(connection)
    except (EOFError, ConnectionError):
        return  # the other end is closed
    except Exception:  # a message can't be unpickled here, or an answer can't be pickled
        connection.send(Crashed(traceback.format_exc()))
        raise


def _serve(connection: Connection) -> None:
    make_evaluator, device, threads = connection.recv()
    evaluator = catching(partial(make_evaluator, device=device, threads=threads))
    if isinstance(evaluator, Refused | Broken | Crashed):
        connection.send(evaluator)
        return
    connection.send(Ready())
    while True:
        jobs = connection.recv()
        connection.send(catching(partial(evaluator.evaluate, jobs)))


def _be_killed_with_parent() -> None:
    """Ask the system for it, where it can: that works even while the interpreter is blocked."""
    with contextlib.suppress(AttributeError, OSError):  # Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_with_parent() -> None:
    """End this process as soon as the parent process has ended, whatever it is doing."""
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
