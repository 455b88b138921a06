"""Load tasks, and score one candidate on them, without a search."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from gptailor.core.problems import sentences
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.task_spec import TaskSpec
from gptailor.core.trial import Job, Scores
from gptailor.engine import Engine, Evaluator
from gptailor.errors import ConfigError, UserError, unknown
from gptailor.family import Family
from gptailor.tasks.lm_eval.load_tasks import load_tasks as load
from gptailor.tasks.splits import TaskSplits

__all__ = ["evaluate", "load_tasks"]

_MAX_LENGTH = 2048  # tokens; longer inputs are cut from the left, as lm-eval does


def load_tasks(
    tasks: Sequence[TaskSpec | Mapping[str, Any]],
    family: Family,
    *,
    seed: int = 0,
    shares: tuple[float, float, float] = (0.6, 0.2, 0.2),
    max_length: int | None = None,
) -> dict[str, TaskSplits]:
    """Load tasks, divide their examples into three splits, and tokenise them for a family.

    Args:
        tasks: Each a `TaskSpec`, or a mapping with its fields: ``{"name": "arc_easy", "metric":
            "acc"}``. A name is one of lm-eval's, or the path of a YAML file.
        family: Whose tokenizer reads them.
        seed: Decides which example is in which split.
        shares: Of the search, selection and test split.
        max_length: Most tokens fed at once; the model's own limit, up to 2,048, if absent.

    Returns:
        Task name to its splits.

    Raises:
        UserError: Every problem of every task, a sentence each.
    """
    known = family.config.to_dict().get("max_position_embeddings")  # absent where unlimited
    return load(
        [_checked(f"tasks[{index}]", task) for index, task in enumerate(tasks)],
        family.tokenizer,
        max_length=max_length or min(known or _MAX_LENGTH, _MAX_LENGTH),
        seed=seed,
        shares=shares,
        n_tokens=family.config.vocab_size,
    )


def _checked(where: str, task: TaskSpec | Mapping[str, Any]) -> TaskSpec:
    try:
        return TaskSpec.model_validate(task)
    except ValidationError as error:
        raise ConfigError(sentences(where, TaskSpec, error)) from None


def evaluate(
    candidate: Tailoring | str,
    family: Family,
    tasks: Mapping[str, TaskSplits],
    *,
    split: str = "test",
    n_examples: int | None = None,
) -> Scores:
    """Score one candidate by the engine, without building a model.

    Args:
        candidate: A tailoring; or a member's name, for the whole member.
        family: The members.
        tasks: What `load_tasks` returned.
        split: ``search``, ``selection`` or ``test``.
        n_examples: The first so many examples of each task; all if absent.

    Raises:
        UserError: The candidate does not fit the family, or can't be scored.
    """
    by_split = {
        "search": [splits.search for splits in tasks.values()],
        "selection": [splits.selection for splits in tasks.values()],
        "test": [splits.test for splits in tasks.values()],
    }
    if split not in by_split:
        raise ConfigError(unknown("split", split, by_split))
    if isinstance(candidate, str):
        if candidate not in family.members:
            raise ConfigError(unknown("member", candidate, family.members))
        candidate = Tailoring.whole(candidate, family.n_layers)
    family.check(candidate)
    evaluator = Evaluator(
        Engine(family, device=family.states[BASE][family.layout.embedding].device),
        by_split,
        teachers={
            name: splits.spec.member
            for name, splits in tasks.items()
            if splits.spec.member is not None
        },
    )
    most = max(task.n_examples for task in by_split[split])
    (done,) = evaluator.evaluate([Job(candidate, n_examples or most, split)])
    if done.scores is None:
        raise UserError(f"the candidate can't be scored: {done.failure}")
    return done.scores
