"""A worker process: makes a scorer of a recipe, then scores groups of jobs until it is let go.

Started as ``python -m gptailor.workers.child FD`` by `gptailor.workers.processes`, with one end of
a pipe as FD and a standard input that ends when the one who started it does.
"""

import os
import signal
import sys
import threading
import traceback
from functools import partial
from multiprocessing.connection import Connection

from gptailor.workers.crew import Ready
from gptailor.workers.messages import Broken, Crashed, Refused, guarded

__all__: list[str] = []


def main(descriptor: int) -> None:
    """Serve one pipe until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    connection = Connection(descriptor)
    try:
        _serve(connection)
    except EOFError:
        return
    except Exception:
        connection.send(Crashed(traceback.format_exc()))
        raise


def _serve(connection: Connection) -> None:
    recipe, device, threads = connection.recv()
    scorer = guarded(partial(recipe, device=device, threads=threads))
    if isinstance(scorer, Refused | Broken):
        connection.send(scorer)
        return
    connection.send(Ready())
    while True:
        jobs = connection.recv()
        connection.send(guarded(partial(scorer.evaluate, jobs)))


def _leave_with_parent() -> None:
    """End this process as soon as the one who started it is gone, whatever it is doing."""
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
