"""Choose each domain's teacher: the member with the lowest loss on the task's own examples."""

from collections.abc import Mapping
from dataclasses import replace

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Engine, Evaluator
from gptailor.errors import ConfigError
from gptailor.tasks.splits import TaskSplits
from gptailor.tasks.task import Task

__all__ = ["AUTO", "with_teachers"]

AUTO = "auto"
_LOSSES = ("bits_per_byte", "gold_bits_per_byte")  # bits a byte; the first that a task has
_N_EXAMPLES = 16  # of each split: members that differ less than these show are as good a teacher


def with_teachers(engine: Engine, tasks: Mapping[str, TaskSplits]) -> Mapping[str, TaskSplits]:
    """Replace ``member: auto`` by the member that has the lowest loss; a note says so.

    Every member scores up to 16 search examples, and as many held-out (selection) ones. Where
    another member has the lowest loss on these, the note says that, too.

    Raises:
        ConfigError: A task has no loss, or a member can't be scored.
    """
    chosen = {
        name: _with_teacher(engine, name, splits)
        for name, splits in tasks.items()
        if splits.spec.member == AUTO
    }
    return {**tasks, **chosen}


def _with_teacher(engine: Engine, name: str, splits: TaskSplits) -> TaskSplits:
    found = {
        split: _losses(engine, splits.by_name[split], split) for split in ("search", "selection")
    }
    best, held_out = (min(losses, key=losses.__getitem__) for losses in found.values())
    note = f"task {name!r}: its teacher is {best}: {_listed(found['search'])} bits per byte"
    if held_out != best:
        note += (
            f"; on held-out examples {held_out} is better ({_listed(found['selection'])}): give "
            "more examples, or name the teacher ('member')"
        )
    spec = splits.spec.model_copy(update={"member": best})
    return replace(splits, spec=spec, notes=(*splits.notes, note))


def _losses(engine: Engine, task: Task, split: str) -> dict[str, float]:
    """Member to its loss on the first examples of a task."""
    metric = next((one for one in _LOSSES if one in task.metrics), None)
    if metric is None:
        raise ConfigError(
            f"task {task.name!r}: member is auto, but no member's loss can be measured on it; name "
            "the member"
        )
    members = engine.family.members
    n = min(_N_EXAMPLES, task.n_examples)
    wholes = [Tailoring.whole(member, engine.family.n_layers) for member in members]
    done = Evaluator(engine, {split: [task]}).evaluate([Job(one, n, split) for one in wholes])
    losses = {}
    for member, evaluation in zip(members, done, strict=True):
        if evaluation.scores is None:
            raise ConfigError(f"member {member!r} can't be scored: {evaluation.failure}")
        losses[member] = evaluation.scores.value(task.name, metric)
    return losses


def _listed(losses: Mapping[str, float]) -> str:
    ordered = sorted(losses.items(), key=lambda pair: pair[1])
    return ", ".join(f"{member} {loss:.3f}" for member, loss in ordered)
