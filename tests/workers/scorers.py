"""Scorers that misbehave, importable by worker processes: the folder is put on their path.

What a scorer must remember beyond its own death lies in a folder, a file each time.
"""

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptailor.errors import FamilyError
from gptailor.tailoring import Tailoring
from gptailor.trial import Evaluation, Job, Measurement, Scores

SEGFAULT, ONCE, ALWAYS, RAYLET, BUG, DEVICE, MEET = 101, 102, 103, 104, 105, 106, 107
DEVICE_ONCE = 108


def job(number: int, n_examples: int = 4) -> Job:
    """A job that is told from others by its first layer."""
    whole = Tailoring.whole("base", 6)
    kept = tuple(spec for index, spec in enumerate(whole.layers) if number >> index & 1)
    return Job(Tailoring(kept or whole.layers), n_examples)


def answer(one: Job) -> Evaluation:
    """What a job scores, wherever it is scored."""
    values = tuple(float(len(spec.sources) + one.n_examples) for spec in one.tailoring.layers)
    return Evaluation(Scores({"task": {"acc": Measurement("acc", values)}}), None, 0.0, 1)


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
        if how == SEGFAULT:
            Note(self.folder, "death").add()
            ctypes.string_at(0)
        if how == ALWAYS or (how == ONCE and Note(self.folder, "death").count() == 0):
            Note(self.folder, "death").add()
            os.kill(os.getpid(), signal.SIGKILL)
        if how == RAYLET and not self._on_head() and Note(self.folder, "death").count() == 0:
            Note(self.folder, "death").add()
            os.kill(os.getppid(), signal.SIGKILL)  # a worker's parent is its node
            signal.pause()
        if how == MEET:
            self._wait_for_another()
        if how == BUG:
            raise ZeroDivisionError("a fault of ours")
        once = how == DEVICE_ONCE and Note(self.folder, "death").count() == 0
        if how == DEVICE or once:
            Note(self.folder, "death").add()
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nand so on")

    def _wait_for_another(self) -> None:
        """Go on once two processes have been given something."""
        deadline = time.monotonic() + 60
        while len(Note(self.folder, "group").pids()) < 2:
            assert time.monotonic() < deadline, "nobody else was given anything"
            os.sched_yield()

    def _on_head(self) -> bool:
        return str(os.getppid()) in Note(self.folder, "head").pids()


@dataclass(frozen=True)
class WaywardRecipe:
    """Makes a `Wayward`, or does not."""

    folder: Path
    device: str = "cpu"
    threads: int | None = 1
    failure: str = ""

    def __call__(self, *, device: str, threads: int) -> Wayward:
        Note(self.folder, "start").add()
        Note(self.folder, f"threads{threads}{device}").add()
        if self.failure == "refused":
            raise FamilyError(["one fault", "another"])
        if self.failure == "killed":
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
