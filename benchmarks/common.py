"""What every benchmark tells beside its figures, and how it keeps them."""

import functools
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gptailor.core.prefix_trie import in_order
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Evaluation, Scores
from gptailor.engine import walk
from gptailor.engine.device import cpu_name
from gptailor.engine.skeleton import Skeleton

__all__ = ["keep", "machine", "peak_mib", "prefix_share", "scored", "table", "told_of", "watch"]

EVERY = 3  # layers after which something else is run once
LIBRARIES = ("gptailor", "torch", "transformers", "lm-eval")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {name: number for name in LIBRARIES if (number := _version(name))},
    }


def _version(library: str) -> str | None:
    """A library's version; None where it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def told_of(told: dict[str, Any]) -> str:
    """A machine in one line."""
    versions = ", ".join(f"{name} {number}" for name, number in told["versions"].items())
    return f"{told['cpu']}, {told['threads']} threads, {told['date']}; {versions}"


def scored(done: Evaluation) -> Scores:
    """The scores of a model that must have some; a failure ends the benchmark."""
    if done.scores is None:
        raise SystemExit(f"a model could not be scored: {done.failure}")
    return done.scores


def peak_mib() -> float:
    """Most memory that this process ever held, in MiB; mapped files count while they are read."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("the system does not tell")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def keep(folder: Path | None, name: str, told: dict[str, Any], text: str) -> None:
    """Print the tables; with a folder, write them and the figures there."""
    print(text)
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
    (folder / f"{name}.md").write_text(text + "\n", encoding="utf-8")


@contextmanager
def watch(beside: Callable[[], Any] | None = None) -> Iterator[dict[str, float]]:
    """Seconds inside layers, and inside embedding, norm and head.

    Args:
        beside: Run after every few layers, so that its pace is that of the same moments; its
            seconds are told as "beside".
    """
    spent: dict[str, float] = defaultdict(float)
    turns = itertools.count(1)

    def timed_as(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] += time.perf_counter() - started
                if beside is not None and name == "layers" and next(turns) % EVERY == 0:
                    started = time.perf_counter()
                    beside()
                    spent["beside"] += time.perf_counter() - started

        return run

    watched = (
        (walk, "run_layer", "layers"),
        (walk, "score", "heads"),
        (Skeleton, "inputs", "embedding and masks"),
    )
    before = [getattr(owner, name) for owner, name, _ in watched]
    for (owner, name, told), function in zip(watched, before, strict=True):
        setattr(owner, name, timed_as(told, function))
    try:
        yield spent
    finally:
        for (owner, name, _), function in zip(watched, before, strict=True):
            setattr(owner, name, function)


def prefix_share(tailorings: Sequence[Tailoring]) -> float:
    """The fraction of layers that common prefixes save; 0 is none."""
    total = sum(len(tailoring.layers) for tailoring in tailorings)
    return sum(shared for _, shared in in_order(tailorings)) / total
