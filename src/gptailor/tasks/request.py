"""A task as the user asks for it, and its three splits.

Knows nothing of lm-eval.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gptailor.core.metrics import METRICS
from gptailor.errors import TaskError, unknown
from gptailor.tasks.task import ExampleTask

__all__ = ["TaskSpec", "TaskSplits", "check_request"]


@dataclass(frozen=True)
class TaskSpec:
    """A task as the user asks for it.

    Args:
        name: Of one of lm-eval's tasks or groups, or the path of a YAML file.
        metric: What the user looks at; every metric the task can tell is measured beside it.
        split: The split to search and choose on; None for validation, else test, else train.
        test_split: The split to report on, where it is another.
        num_fewshot: Worked examples before each question; None for the task's own number.
        limit: At most so many search examples.
        member: The member that a divergence is measured from.
        test_task: A task or group to report on, where it is another; of the same output type.
        test_limit: At most so many test examples.
    """

    name: str
    metric: str
    split: str | None = None
    test_split: str | None = None
    num_fewshot: int | None = None
    limit: int | None = None
    member: str | None = None
    test_task: str | None = None
    test_limit: int | None = None


@dataclass(frozen=True)
class TaskSplits:
    """The three splits of a task; no two share an example.

    Args:
        search: What candidates are scored on.
        selection: What the final pick is made on.
        test: What the result is reported on.
        test_docs: Leaf task -> indices of the test split in that task's split, rising.
        notes: Sentences for the user.
        request: What was asked.
    """

    search: ExampleTask
    selection: ExampleTask
    test: ExampleTask
    test_docs: Mapping[str, tuple[int, ...]]
    notes: tuple[str, ...] = ()
    request: TaskSpec = field(default_factory=lambda: TaskSpec("", "acc"))


def check_request(request: TaskSpec) -> None:
    """Refuse what no task could answer.

    Raises:
        TaskError: The metric, the limit or the number of few-shot examples is invalid.
    """
    if request.metric not in METRICS:
        raise TaskError(f"task {request.name!r}: " + unknown("metric", request.metric, METRICS))
    if request.num_fewshot is not None and request.num_fewshot < 0:
        raise TaskError(
            f"task {request.name!r}: num_fewshot is {request.num_fewshot}; it must be 0 or more"
        )
    for key, limit in (("limit", request.limit), ("test_limit", request.test_limit)):
        if limit is not None and limit < 1:
            raise TaskError(f"task {request.name!r}: {key} is {limit}; it must be 1 or more")
    if request.metric == "divergence" and request.member is None:
        raise TaskError(f"task {request.name!r}: say from which member the divergence is measured")
