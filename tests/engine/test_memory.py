"""Too little memory: batches are halved and tried again; what still does not fit is a failure."""

import contextlib
import logging
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.engine import Engine
from gptailor.engine.batches import pack
from gptailor.family import Family
from gptailor.tasks.task import Passage

FORK = multiprocessing.get_context("fork")
WIDE = 16_384  # floats of a token inside the layer: 2,048 tokens need 128 MiB three times over
MIB = 2**20


def passages(n: int) -> list[Passage]:
    """Rows of 256 tokens that have nothing in common."""
    rng = np.random.default_rng(0)
    rows = rng.integers(3, 300, (n, 257)).tolist()
    return [Passage(tuple(row[:-3]), (tuple(row[-3:]),)) for row in rows]


def filled() -> list[torch.Tensor]:
    """Blocks for which there is memory, until there is none for the smallest."""
    blocks = []
    for size in (64 * MIB, 8 * MIB, MIB):
        with contextlib.suppress(RuntimeError):
            while True:
                blocks.append(torch.empty(size, dtype=torch.uint8))
    return blocks


def starved(family: Family, room: int, line: Connection, log: Path) -> None:
    """Run one model with `room` bytes more than the process has now; send what came of it."""
    logging.basicConfig(filename=log, level=logging.WARNING, force=True)
    batches = pack(passages(8), row_tokens=256, batch_tokens=2048)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit, (_, most) = pages * resource.getpagesize(), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    _ballast = filled()  # what was freed before this test, and is still held, is no room
    resource.setrlimit(resource.RLIMIT_AS, (limit + room, most))
    (result,) = Engine(family).run([Tailoring.whole(BASE, 1)], batches)
    told = None if result.targets is None else [t.logprob.tolist() for t in result.targets]
    line.send((told, result.failure))


def run_starved(family: Family, room: int, log: Path) -> tuple[Any, str | None]:
    here, there = FORK.Pipe()
    process = FORK.Process(target=starved, args=(family, room, there, log))
    process.start()
    there.close()
    try:
        told: tuple[Any, str | None] = here.recv()
    finally:
        process.join()
        here.close()
    return told


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.slow
def test_a_batch_too_large_for_memory_is_halved_and_what_never_fits_fails_with_a_reason(
    family_of: Callable[..., Family], tmp_path: Path
) -> None:
    family = family_of("llama", num_hidden_layers=1, intermediate_size=WIDE)
    batches = pack(passages(8), row_tokens=256, batch_tokens=2048)
    assert [batch.n_tokens for batch in batches] == [2048]

    told, failure = run_starved(family, 256 * MIB, tmp_path / "halved.log")
    assert failure is None
    assert (
        "out of memory on 1 batches; trying smaller ones" in (tmp_path / "halved.log").read_text()
    )
    whole = Engine(family).run([Tailoring.whole(BASE, 1)], batches)[0].targets
    assert whole is not None
    for mine, theirs in zip(told, whole, strict=True):
        torch.testing.assert_close(torch.tensor(mine), theirs.logprob, atol=1e-4, rtol=0)

    told, failure = run_starved(family, 8 * MIB, tmp_path / "failed.log")
    assert told is None
    assert "out of memory on one batch of" in str(failure)
