"""Score one candidate on loaded tasks, without a search."""

from collections.abc import Mapping

from gptailor.app.assemble import evaluator_on
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Job, Scores
from gptailor.engine import Engine
from gptailor.errors import ConfigError, UserError, unknown
from gptailor.family import Family
from gptailor.tasks.splits import SPLITS, TaskSplits

__all__ = ["evaluate"]


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
    if split not in SPLITS:
        raise ConfigError(unknown("split", split, SPLITS))
    if isinstance(candidate, str):
        if candidate not in family.members:
            raise ConfigError(unknown("member", candidate, family.members))
        candidate = Tailoring.whole(candidate, family.n_layers)
    family.check(candidate)
    if n_examples is None:
        n_examples = max(splits.by_name[split].n_examples for splits in tasks.values())
    engine = Engine(family, device=family.states[BASE][family.layout.embedding].device)
    (done,) = evaluator_on(engine, tasks).evaluate([Job(candidate, n_examples, split)])
    if done.scores is None:
        raise UserError(f"the candidate can't be scored: {done.failure}")
    return done.scores
