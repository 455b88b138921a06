"""Groups are run in order, and handed on as they are done."""

from collections.abc import Sequence

import pytest

from gptailor.errors import ConfigError
from gptailor.tailoring import Tailoring
from gptailor.trial import Evaluation, Job
from gptailor.workers.local import LocalPool

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
    with pytest.raises(ConfigError, match="group_size"):
        LocalPool(Counting(), group_size=size)  # type: ignore[arg-type]  # what a config may say
