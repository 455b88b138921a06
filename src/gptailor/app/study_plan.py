"""The plan of a study: what a config asks for, within what the family and the tasks have."""

from collections.abc import Mapping, Sequence

from gptailor.config import Config
from gptailor.core.objective import Goal
from gptailor.core.trial import GUARD
from gptailor.family import Family
from gptailor.study import Plan
from gptailor.tasks.splits import SPLITS, TaskSplits
from gptailor.tasks.task import Task

__all__ = ["by_split", "plan_of"]


def plan_of(
    config: Config,
    family: Family,
    tasks: Mapping[str, TaskSplits],
    guarded: Sequence[Task],
) -> Plan:
    """The plan of a study, by the config and by how many examples there are."""
    splits = {**by_split(tasks), GUARD: guarded}
    sizes = {name: max((t.n_examples for t in split), default=0) for name, split in splits.items()}
    specs, budget = zip(tasks, config.tasks, strict=True), config.budget
    return Plan(
        goals=tuple(
            Goal(
                name,
                spec.metric,
                spec.weight,
                tasks[name].search.proxy(spec.metric),
                worst=config.worst_domain and spec.metric == "divergence",
            )
            for name, spec in specs
        ),
        members=family.members,
        n_layers=family.n_layers,
        n_removed=config.depths(family.n_layers)[0],
        rungs=tuple(sorted({min(rung, sizes["search"]) for rung in budget.rungs})),
        sizes=sizes,
        max_trials=budget.max_trials,
        layer_tokens=budget.layer_tokens,
        timeout_s=budget.timeout_s,
        finalists=budget.finalists,
        guard=config.guard,
    )


def by_split(tasks: Mapping[str, TaskSplits]) -> dict[str, list[Task]]:
    """The tasks of every split, by its name."""
    return {name: [splits.by_name[name] for splits in tasks.values()] for name in SPLITS}
