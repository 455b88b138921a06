"""Real processes that die in every way: what they had to do is done by others, or has failed."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scorers import (
    ALWAYS,
    BUG,
    DEVICE,
    HANG_UP,
    INTERRUPT,
    LARGE,
    MEET,
    NOISE,
    ONCE,
    PARENT,
    SEGFAULT,
    UNSENDABLE,
    Note,
    WaywardFactory,
    answer,
    eleven_jobs,
    failures_of,
    job,
)

from gptailor.errors import FamilyError, RecordError
from gptailor.workers import processes
from gptailor.workers.pool import WorkerSetup
from gptailor.workers.processes import ProcessBackend, Slot, format_exit
from gptailor.workers.supervisor import SupervisedPool

Make = Callable[..., SupervisedPool]


@pytest.fixture
def pool(tmp_path: Path, scorers_path: None) -> Iterator[Make]:
    """Factory: a pool of processes with wayward scorers; closed at the end."""
    made = []

    def make(
        n_workers: int = 2, group_size: int = 16, *, first: str = "cpu", **factory: str
    ) -> SupervisedPool:
        places = [Slot(first, 1), *[Slot("cpu", 1)] * (n_workers - 1)]
        backend = ProcessBackend(WaywardFactory(tmp_path, **factory), places)
        made.append(
            SupervisedPool(backend, setup=WorkerSetup(n_workers, "cpu", 1), group_size=group_size)
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_jobs_are_spread_and_answered_in_order_by_workers_that_stay(
    pool: Make, tmp_path: Path
) -> None:
    two, jobs = pool(), [job(number, MEET) for number in range(1, 12)]
    for _ in range(2):
        assert list(two.evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "start").count() == 2
    assert len(Note(tmp_path, "group").pids()) == 2
    assert str(os.getpid()) not in Note(tmp_path, "group").pids()


def test_no_more_workers_are_started_than_there_are_groups(pool: Make, tmp_path: Path) -> None:
    assert list(pool(n_workers=3).evaluate([job(1)])) == [answer(job(1))]
    assert list(pool(n_workers=3).evaluate([])) == []
    assert Note(tmp_path, "start").count() == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("n_workers", [1, 2])
def test_what_a_killed_worker_had_to_do_is_done_again(
    pool: Make, tmp_path: Path, n_workers: int
) -> None:
    jobs = eleven_jobs(ONCE)
    assert list(pool(n_workers).evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "death").count() == 1


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (SEGFAULT, "killed by SIGSEGV"),
        (ALWAYS, "killed by SIGKILL"),
        (DEVICE, "stopped by its device: CUDA error: an illegal memory access was encountered"),
    ],
)
def test_a_candidate_that_kills_three_workers_has_failed_and_harms_no_other(
    pool: Make, tmp_path: Path, how: int, reason: str
) -> None:
    jobs = eleven_jobs(how)
    done = list(pool().evaluate(jobs))
    assert Note(tmp_path, "death").count() == 3
    assert len(Note(tmp_path, "death").pids()) == 3
    assert failures_of(done) == {3: f"3 workers were lost while they ran it; the last: {reason}"}
    assert done[:3] + done[4:] == [answer(one) for one in jobs[:3] + jobs[4:]]


@pytest.mark.slow
def test_two_that_kill_are_told_apart(pool: Make, tmp_path: Path) -> None:
    jobs = eleven_jobs(ALWAYS, SEGFAULT)
    done = list(pool(group_size=3).evaluate(jobs))
    lost = "3 workers were lost while they ran it; the last: killed by"
    assert failures_of(done) == {3: f"{lost} SIGKILL", 4: f"{lost} SIGSEGV"}
    assert done[:3] + done[5:] == [answer(one) for one in jobs[:3] + jobs[5:]]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_worker_killed_between_groups_is_replaced_and_nothing_is_blamed_on_what_comes_next(
    pool: Make, tmp_path: Path, n_workers: int
) -> None:
    some = pool(n_workers)
    assert list(some.evaluate([job(1)])) == [answer(job(1))]
    (pid,) = Note(tmp_path, "group").pids()
    os.kill(int(pid), signal.SIGKILL)
    os.waitid(os.P_PID, int(pid), os.WEXITED | os.WNOWAIT)  # until it is dead
    jobs = [job(number) for number in range(2, 9)]
    assert list(some.evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "group").count() == 1 + n_workers  # nothing was run one by one


def test_a_worker_that_hangs_up_and_stays_is_lost(
    pool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.05)
    jobs = eleven_jobs(HANG_UP)
    assert list(pool(n_workers=1).evaluate(jobs)) == [answer(one) for one in jobs]
    assert "worker 0 was lost (closed its pipe) with 11 candidates" in caplog.messages
    (pid,) = Note(tmp_path, "death").pids()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


@pytest.mark.slow
def test_large_and_many_messages_go_both_ways(pool: Make) -> None:
    known = answer(job(1, LARGE)).scores
    jobs = [dataclasses.replace(job(number, LARGE), known=known) for number in range(1, 9)]
    assert list(pool(group_size=4).evaluate(jobs)) == [answer(one) for one in jobs]


def test_what_workers_print_does_not_mix_with_results(
    pool: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    assert list(pool(n_workers=1).evaluate([job(1, NOISE)])) == [answer(job(1, NOISE))]
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err == "a library's chatter\nfrom below Python\n"


@pytest.mark.sampled(2)
@pytest.mark.parametrize("how", [BUG, UNSENDABLE])
def test_a_fault_of_ours_is_raised_with_its_traceback(
    pool: Make, how: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed.*scorers.py.*a error of ours"):
        list(pool().evaluate(eleven_jobs(how)))
    assert capfd.readouterr().out == ""


def test_a_users_fault_in_a_worker_is_told_as_such(pool: Make) -> None:
    with pytest.raises(FamilyError) as caught:
        list(pool(failure="refused").evaluate([job(1)]))
    assert caught.value.problems == ("one error", "another")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        ("killed", "killed by SIGKILL"),
        ("memory", "stopped by lack of memory: Unable to allocate 13.1 GiB"),
    ],
)
def test_workers_that_never_get_ready_stop_the_study(
    pool: Make, tmp_path: Path, failure: str, reason: str
) -> None:
    with pytest.raises(
        RecordError, match=rf"no worker is left: .* the last time: {reason}; ask for fewer"
    ):
        list(pool(failure=failure).evaluate([job(1)]))
    assert Note(tmp_path, "start").count() == 2 * 3


@pytest.mark.slow
def test_a_worker_that_never_gets_ready_is_done_without(pool: Make, tmp_path: Path) -> None:
    some, jobs = pool(first="broken", group_size=1), eleven_jobs(ONCE)
    deadline = time.monotonic() + 30
    while Note(tmp_path, "threads1broken").count() < 3:
        assert time.monotonic() < deadline
        assert list(some.evaluate(jobs)) == [answer(one) for one in jobs]
    for _ in range(3):
        assert list(some.evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "threads1broken").count() == 3  # it was given up


def test_a_system_that_starts_no_more_processes_is_told(
    pool: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(RecordError, match="a worker process can't be started: No such file"):
        list(pool().evaluate([job(1)]))


def test_nothing_of_the_folder_that_one_is_in_is_imported(
    pool: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("threading", "multiprocessing", "pickle", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this was imported')")
    monkeypatch.chdir(tmp_path)
    assert list(pool(n_workers=1).evaluate([job(1)])) == [answer(job(1))]


@pytest.mark.slow
def test_answers_that_nobody_waits_for_are_dropped(pool: Make) -> None:
    two, jobs = pool(group_size=2), eleven_jobs()
    for n_taken in (1, 3):
        rounds = iter(two.evaluate(jobs))
        assert [next(rounds) for _ in range(n_taken)] == [answer(one) for one in jobs[:n_taken]]
        rounds.close()  # type: ignore[attr-defined]  # a generator
    assert list(two.evaluate(jobs[::-1])) == [answer(one) for one in jobs[::-1]]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("how", "code", "told"),
    [(PARENT, -signal.SIGKILL, b""), (INTERRUPT, 3, b"stopped")],
)
def test_busy_and_idle_workers_end_with_the_process_that_started_them(
    tmp_path: Path, scorers_path: None, how: int, code: int, told: bytes
) -> None:
    """Killed, or stopped with Ctrl-C: one worker of three is busy, one idle, one yet to start."""
    script = f"""
import signal
import sys
from contextlib import closing
from pathlib import Path
from scorers import MEET, WaywardFactory, job
from gptailor.workers.supervisor import SupervisedPool
from gptailor.workers.pool import WorkerSetup
from gptailor.workers.processes import Slot, ProcessBackend
backend = ProcessBackend(WaywardFactory(Path({str(tmp_path)!r})), [Slot("cpu", 1)] * 3)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores interrupts
try:
    with closing(SupervisedPool(backend, setup=WorkerSetup(3, "cpu", 1), group_size=1)) as pool:
        list(pool.evaluate([job(1, MEET), job(2, MEET)]))
        backend.start(2)
        list(pool.evaluate([job(1, {how})]))
except KeyboardInterrupt:
    sys.stderr.write("stopped")
    sys.exit(3)
"""
    # workers inherit the error output, and this waits for the end of the last
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (code, told)
    assert Note(tmp_path, "group").count() == 3


def test_an_exit_status_is_told_in_words() -> None:
    assert format_exit(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert format_exit(-200) == "killed by signal 200"
