"""Start ``gptailor search`` and send it a signal once a trial stands in its record.

    python stopping.py SIGKILL CONFIG SIGINT CONFIG

Libraries are loaded once; each start is a fork. What it tells goes into ``told.txt`` beside its
config; the exit codes are printed.
"""

import multiprocessing
import os
import signal
import sys
from pathlib import Path

import gptailor.app.assemble  # noqa: F401  # slow to import
from gptailor.cli import main

FORK = multiprocessing.get_context("fork")


def stop(config: Path, number: signal.Signals) -> int:
    """The exit code of a search that got a signal midway."""
    record = config.parent / "runs" / "tailor" / "record.jsonl"
    process = FORK.Process(target=search, args=(config,))
    process.start()
    while process.is_alive():
        process.join(0.01)
        if record.exists() and b'"kind":"trial"' in record.read_bytes():
            break
    os.kill(process.pid, number)
    process.join()
    return process.exitcode


def search(config: Path) -> None:
    with (config.parent / "told.txt").open("w") as told:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(told.fileno(), stream.fileno())
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    sys.argv = ["gptailor", "search", str(config)]
    main()


if __name__ == "__main__":
    pairs = zip(sys.argv[1::2], sys.argv[2::2], strict=True)
    codes = [stop(Path(config), signal.Signals[name]) for name, config in pairs]
    sys.stdout.write(" ".join(map(str, codes)))
