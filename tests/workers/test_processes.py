"""Real processes that die in every way: what they had to do is done by others, or has failed."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scorers import (
    ALWAYS,
    BUG,
    DEVICE,
    MEET,
    ONCE,
    SEGFAULT,
    Note,
    WaywardRecipe,
    answer,
    eleven_jobs,
    failures_of,
    job,
)

from gptailor.errors import FamilyError, RecordError
from gptailor.workers.crew import CrewPool
from gptailor.workers.processes import Place, ProcessCrew, ending

Make = Callable[..., CrewPool]


@pytest.fixture
def pool(tmp_path: Path, scorers_path: None) -> Iterator[Make]:
    """Factory: a pool of processes with wayward scorers; closed at the end."""
    made = []

    def make(n_workers: int = 2, group_size: int = 16, **recipe: str) -> CrewPool:
        crew = ProcessCrew(WaywardRecipe(tmp_path, **recipe), [Place("cpu", 1)] * n_workers)
        made.append(CrewPool(crew, group_size=group_size))
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


@pytest.mark.parametrize("n_workers", [1, 2])
def test_what_a_killed_worker_had_to_do_is_done_again(
    pool: Make, tmp_path: Path, n_workers: int
) -> None:
    jobs = eleven_jobs(ONCE)
    assert list(pool(n_workers).evaluate(jobs)) == [answer(one) for one in jobs]
    assert Note(tmp_path, "death").count() == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (SEGFAULT, "killed by SIGSEGV"),
        (ALWAYS, "killed by SIGKILL"),
        pytest.param(  # imports torch to know the error
            DEVICE,
            "stopped by its device: CUDA error: an illegal memory access was encountered",
            marks=pytest.mark.slow,
        ),
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


def test_a_worker_killed_between_groups_is_replaced(pool: Make, tmp_path: Path) -> None:
    one = pool(n_workers=1)
    assert list(one.evaluate([job(1)])) == [answer(job(1))]
    (pid,) = Note(tmp_path, "group").pids()
    os.kill(int(pid), signal.SIGKILL)
    assert list(one.evaluate([job(2), job(3)])) == [answer(job(2)), answer(job(3))]


def test_a_fault_of_ours_is_raised_with_its_traceback(
    pool: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed.*ZeroDivisionError: a fault of"):
        list(pool().evaluate(eleven_jobs(BUG)))
    assert capfd.readouterr().out == ""


def test_a_users_fault_in_a_worker_is_told_as_such(pool: Make) -> None:
    with pytest.raises(FamilyError) as caught:
        list(pool(failure="refused").evaluate([job(1)]))
    assert caught.value.faults == ("one fault", "another")


def test_workers_that_never_get_ready_stop_the_study(pool: Make, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no worker is left: .* killed by SIGKILL"):
        list(pool(failure="killed").evaluate([job(1)]))
    assert Note(tmp_path, "start").count() == 2 * 3


def test_answers_that_nobody_waits_for_are_dropped(pool: Make) -> None:
    two, jobs = pool(group_size=2), eleven_jobs()
    for n_taken in (1, 3):
        rounds = iter(two.evaluate(jobs))
        assert [next(rounds) for _ in range(n_taken)] == [answer(one) for one in jobs[:n_taken]]
        rounds.close()  # type: ignore[attr-defined]  # a generator
    assert list(two.evaluate(jobs[::-1])) == [answer(one) for one in jobs[::-1]]


def test_workers_end_with_the_process_that_started_them(tmp_path: Path, scorers_path: None) -> None:
    script = f"""
import os, signal
from pathlib import Path
from scorers import WaywardRecipe, job
from gptailor.workers.crew import CrewPool
from gptailor.workers.processes import Place, ProcessCrew
pool = CrewPool(ProcessCrew(WaywardRecipe(Path({str(tmp_path)!r})), [Place("cpu", 1)]))
list(pool.evaluate([job(1)]))
os.kill(os.getpid(), signal.SIGKILL)
"""
    # a worker inherits the error output, and this waits for its end
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, b"")
    assert Note(tmp_path, "group").count() == 1


def test_an_exit_status_is_told_in_words() -> None:
    assert ending(-signal.SIGSEGV) == "killed by SIGSEGV"
    assert ending(-200) == "killed by signal 200"
