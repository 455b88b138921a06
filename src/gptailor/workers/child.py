"""A worker process: makes a scorer of a recipe, then scores groups of jobs until it is let go.

Started as ``python -m gptailor.workers.child FD`` by `gptailor.workers.processes`, with one end of
a pipe as FD and a standard input that ends when the one who started it does.
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

from gptailor.workers.protocol import Broken, Crashed, Refused, guarded
from gptailor.workers.supervisor import Ready

__all__: list[str] = []

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(descriptor: int) -> None:
    """Serve one pipe until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _be_killed_with_parent()
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    try:
        _serve(connection)
    except (EOFError, ConnectionError):
        return  # the other end is closed
    except Exception:  # what was sent can't be read here, or what was made can't be sent
        connection.send(Crashed(traceback.format_exc()))
        raise


def _serve(connection: Connection) -> None:
    recipe, device, threads = connection.recv()
    scorer = guarded(partial(recipe, device=device, threads=threads))
    if isinstance(scorer, Refused | Broken | Crashed):
        connection.send(scorer)
        return
    connection.send(Ready())
    while True:
        jobs = connection.recv()
        connection.send(guarded(partial(scorer.evaluate, jobs)))


def _be_killed_with_parent() -> None:
    """Have the system do it, where it can: it does not mind what holds the interpreter."""
    with contextlib.suppress(AttributeError, OSError):  # Linux has it
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _leave_with_parent() -> None:
    """End this process as soon as the one who started it is gone, whatever it is doing."""
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
