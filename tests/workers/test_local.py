"""Groups are run in order, and handed on as they are done."""

from collections.abc import Sequence

import pytest

from gptailor.core.plugins import WORKERS
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Evaluation, Job
from gptailor.errors import ConfigError
from gptailor.workers.local import LocalPool, local_slots

JOBS = [Job(Tailoring.whole("base", n), n) for n in range(1, 6)]


class Counting:
    """Remembers how many jobs came at a time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        self.sizes.append(len(jobs))
        return [Evaluation(None, f"job {job.n_examples}", 0.0, 0) for job in jobs]


def test_jobs_are_run_in_groups_and_answered_in_order() -> None:
    scorer = Counting()
    done = list(LocalPool(scorer, group_size=2).evaluate(JOBS))
    assert scorer.sizes == [2, 2, 1]
    assert [one.failure for one in done] == [f"job {n}" for n in range(1, 6)]


def test_a_group_is_handed_on_before_the_next_is_begun() -> None:
    scorer = Counting()
    next(iter(LocalPool(scorer, group_size=2).evaluate(JOBS)))
    assert scorer.sizes == [2]


@pytest.mark.parametrize("size", [0, -1, 1.5, "8", True, None])
def test_a_group_size_that_is_no_count_is_refused(size: object) -> None:
    (problem,) = WORKERS.problems("local", {"group_size": size})
    assert problem.startswith("workers.options.group_size: must be a whole number")


@pytest.mark.parametrize(
    ("device", "n_workers", "n_gpus", "visible", "told"),
    [
        ("auto", 2, 0, None, ["cpu", "cpu"]),
        ("auto", 2, 0, "", ["cpu", "cpu"]),
        ("auto", 2, 3, None, ["0", "1"]),
        ("cpu", 2, 3, None, ["cpu", "cpu"]),
        ("cuda", 3, 3, None, ["0", "1", "2"]),
        ("cuda", 2, 2, "3, 1", ["3", "1"]),
        ("cuda", 2, 2, "GPU-8f1a,GPU-77c0", ["GPU-8f1a", "GPU-77c0"]),
        ("cuda", 1, 1, "0,-1,2", ["0"]),
        ("cuda:1", 1, 2, "3,1", ["1"]),
        ("mps", 1, 0, None, ["mps"]),
    ],
)
def test_each_worker_has_a_gpu_of_its_own_or_a_share_of_the_processor(
    device: str, n_workers: int, n_gpus: int, visible: str | None, told: list[str]
) -> None:
    made = local_slots(device, n_workers, threads=3, n_gpus=n_gpus, visible=visible)
    assert [one.environment.get("CUDA_VISIBLE_DEVICES", one.device) for one in made] == told
    assert {one.device for one in made} == {"cuda" if one.environment else told[0] for one in made}
    assert all(one.threads == 3 for one in made)


@pytest.mark.parametrize(
    ("device", "n_workers", "n_gpus", "told"),
    [
        ("auto", 3, 2, "3 workers need a GPU each, and PyTorch sees 2; ask for 2, or set engine.d"),
        ("cuda:1", 2, 4, "engine.device is cuda:1, which names 1; ask for 1, or set engine.device"),
        ("mps", 2, 0, "there is one mps device"),
        ("cpu", 257, 0, "257 processes are more than one machine runs; say 256"),
    ],
)
def test_more_workers_than_devices_are_refused(
    device: str, n_workers: int, n_gpus: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=f"workers.options.n_workers: .*{told}"):
        local_slots(device, n_workers, threads=1, n_gpus=n_gpus, visible=None)


def test_all_options_at_fault_are_told_at_once() -> None:
    problems = WORKERS.problems("local", {"n_workers": 0, "group_size": 2.5})
    assert [problem.partition(":")[0] for problem in problems] == [
        "workers.options.n_workers",
        "workers.options.group_size",
    ]
