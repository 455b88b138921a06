"""Scorers that misbehave, importable by worker processes: the folder is put on their path.

What a scorer must remember beyond its own death lies in a folder, a file each time.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Evaluation, Job, Measurement, Scores
from gptailor.errors import FamilyError

MEET, NOISE, LARGE, BUG, UNSENDABLE, PARENT, INTERRUPT = range(101, 108)
DEADLY = SEGFAULT, ALWAYS, DEVICE, ONCE, DEVICE_ONCE, RAYLET, HANG_UP, DRIVER = range(111, 119)


def job(number: int, n_examples: int = 4) -> Job:
    """A job that is told from others by its first layer."""
    whole = Tailoring.whole("base", 6)
    kept = tuple(spec for index, spec in enumerate(whole.layers) if number >> index & 1)
    return Job(Tailoring(kept or whole.layers), n_examples)


def answer(one: Job) -> Evaluation:
    """What a job scores, wherever it is scored."""
    values = tuple(float(len(spec.sources) + one.n_examples) for spec in one.tailoring.layers)
    if one.n_examples == LARGE:
        values = tuple(map(float, range(100_000)))  # more than a pipe holds
    return Evaluation(Scores({"task": {"acc": Measurement("acc", values)}}), None, 0.0, 1)


class Unsendable(Exception):
    """Neither can it be pickled, nor made again of what it was made of."""

    def __init__(self, what: object) -> None:
        super().__init__("a error of ours")
        self.what = what


@dataclass(frozen=True)
class Note:
    """How often something happened, over all processes."""

    folder: Path
    name: str

    def add(self) -> int:
        number = self.count()
        (self.folder / f"{self.name}-{number}-{os.getpid()}").touch()
        return number + 1

    def count(self) -> int:
        return len(list(self.folder.glob(f"{self.name}-*")))

    def pids(self) -> set[str]:
        return {path.name.rpartition("-")[2] for path in self.folder.glob(f"{self.name}-*")}


@dataclass(frozen=True)
class Wayward:
    """Scores most jobs; the number of examples of some says how it dies on them."""

    folder: Path

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        Note(self.folder, "group").add()
        for one in jobs:
            self._misbehave(one.n_examples)
        return [answer(one) for one in jobs]

    def _misbehave(self, how: int) -> None:
        if how == MEET:
            self._wait_for_another()
        elif how == NOISE:
            sys.stdout.write("a library's chatter\n")
            sys.stdout.flush()
            os.write(1, b"from below Python\n")
        elif how in (PARENT, INTERRUPT):
            os.kill(os.getppid(), signal.SIGKILL if how == PARENT else signal.SIGINT)
            _hang()
        elif how == BUG:
            raise ZeroDivisionError("a error of ours")
        elif how == UNSENDABLE:
            raise Unsendable(lambda: None)
        else:
            self._die(how)

    def _die(self, how: int) -> None:
        again = how in (SEGFAULT, ALWAYS, DEVICE) or Note(self.folder, "death").count() == 0
        if how not in DEADLY or not again or (how == RAYLET and self._on_head()):
            return
        Note(self.folder, "death").add()
        if how == SEGFAULT:
            ctypes.string_at(0)
        if how in (ALWAYS, ONCE):
            os.kill(os.getpid(), signal.SIGKILL)
        if how in (DEVICE, DEVICE_ONCE):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nand so on")
        if how == RAYLET:
            os.kill(os.getppid(), signal.SIGKILL)  # a worker's parent is its node
            signal.pause()
        if how == DRIVER:
            (pid,) = Note(self.folder, "driver").pids()
            os.kill(int(pid), signal.SIGKILL)
        if how == HANG_UP:
            os.close(int(sys.argv[1]))  # the pipe
        _hang()

    def _wait_for_another(self) -> None:
        """Go on once two processes have been given something."""
        deadline = time.monotonic() + 60
        while len(Note(self.folder, "group").pids()) < 2:
            assert time.monotonic() < deadline, "nobody else was given anything"
            os.sched_yield()

    def _on_head(self) -> bool:
        return str(os.getppid()) in Note(self.folder, "head").pids()


def _hang() -> None:
    """Wait for ever, as a stuck driver may: no other thread of this process goes on."""
    ctypes.PyDLL(None).pause()


@dataclass(frozen=True)
class WaywardFactory:
    """Makes a `Wayward`, or does not."""

    folder: Path
    device: str = "cpu"
    threads: int | None = 1
    failure: str = ""

    def __call__(self, *, device: str, threads: int) -> Wayward:
        Note(self.folder, "start").add()
        Note(self.folder, f"threads{threads}{device}").add()
        if self.failure == "refused":
            raise FamilyError(["one error", "another"])
        if self.failure == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.failure == "memory":
            raise MemoryError("Unable to allocate 13.1 GiB")
        if device == "broken":
            os.kill(os.getpid(), signal.SIGKILL)
        return Wayward(self.folder)


def eleven_jobs(*special: int) -> list[Job]:
    """Eleven jobs, some of which are deadly: the fourth and those behind it."""
    plain = [job(number) for number in range(1, 12)]
    for place, how in enumerate(special):
        plain[3 + place] = job(40 + place, how)
    return plain


def failures_of(done: Sequence[Evaluation]) -> dict[int, str]:
    return {index: one.failure for index, one in enumerate(done) if one.failure is not None}
