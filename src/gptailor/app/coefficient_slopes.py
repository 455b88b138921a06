"""Slopes of the loss by merging coefficients, on the search examples of tasks."""

import functools
import itertools
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from gptailor.config import Config
from gptailor.config.sections import BudgetConfig
from gptailor.core.objective import Goal
from gptailor.core.tailoring import Tailoring
from gptailor.engine import Engine, Evaluator
from gptailor.engine.slopes import PASSES, Slopes, member_slopes
from gptailor.errors import is_out_of_memory
from gptailor.record.entries import SlopeEntry
from gptailor.searchers.searcher import UNSHARED
from gptailor.study import Plan
from gptailor.tasks.gold import gold_passages
from gptailor.tasks.task import Passage, Task

__all__ = ["CoefficientSlopes", "fits_coefficients", "n_steps_of"]

_EXAMPLES = 36  # of a step, of all tasks together
_LEAST_STEPS, _MOST_STEPS = 8, 100  # fewer change little; more change nothing, either
_LEAST_NATS = 1e-6  # of all gold answers of a task in a step
_METHODS = ("linear", "task_arithmetic")  # that such a merge is one of
# metrics that the log-likelihood of gold answers, or of texts, decides
_LIKELIHOODS = frozenset(
    {"gold_bits_per_byte", "bits_per_byte", "byte_perplexity", "word_perplexity", "perplexity"}
)


def fits_coefficients(config: Config, plan: Plan) -> bool:
    """Whether coefficients are fitted: whether there is something to merge, and all goals allow it.

    A search by another name than evolution starts from nothing that was fitted.
    """
    merges = bool(config.family.variants) and bool(set(config.merge) & set(_METHODS))
    measured = [goal.measured(proxy=True).partition(",")[0] for goal in plan.goals]
    return config.search.name == "evolution" and merges and set(measured) <= _LIKELIHOODS


def n_steps_of(budget: BudgetConfig, step_tokens: int, plan: Plan, evaluator: Evaluator) -> int:
    """In how many steps coefficients are fitted; none where the budget pays too few.

    Without layer-tokens in the budget it is what all trials on the fewest examples would take. A
    single trial is left to a candidate.
    """
    layer_tokens: float | None = plan.layer_tokens
    if layer_tokens is None:
        trial = evaluator.tokens("search", 0, plan.rungs[0]) * plan.n_kept * UNSHARED
        layer_tokens = trial * plan.max_trials
    paid = budget.coefficients * layer_tokens / max(1, step_tokens)
    return min(_MOST_STEPS, int(paid)) if paid >= _LEAST_STEPS and plan.max_trials > 1 else 0


class CoefficientSlopes:
    """Measures slopes on a few examples of every task at a time, one after the other.

    The loss is the mean over the goals, by their weights, of the logarithm of the nats of gold
    answers and texts: it doesn't matter in which unit a task is measured.

    Args:
        engine: Has the family.
        tasks: With their search examples.
        goals: One a task.
    """

    def __init__(self, engine: Engine, tasks: Sequence[Task], goals: Sequence[Goal]) -> None:
        self._engine, self._tasks = engine, tasks
        self._weights = torch.tensor([goal.weight for goal in goals])
        self._weights /= self._weights.sum()
        self._n_examples = max(1, _EXAMPLES // len(tasks))

    def __call__(self, tailoring: Tailoring, step: int) -> SlopeEntry:
        """Measure the slopes of one model on a step's examples."""
        started = time.perf_counter()
        passages, owners = self._passages(step)
        known = sorted(set(owners))

        def loss(logprobs: Tensor) -> Tensor:
            nats = torch.zeros(len(self._tasks)).index_add(0, torch.tensor(owners), -logprobs)
            return (self._weights * nats.clamp_min(_LEAST_NATS).log())[known].sum()

        variants = self._engine.family.members[1:]
        found, failure, layer_tokens = None, None, 0
        try:
            found = member_slopes(self._engine, tailoring, variants, passages, loss)
            layer_tokens = found.layer_tokens
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failure = "out of memory"
        if found is not None and not _is_finite(found):
            found, failure = None, "the loss or a slope is not finite"
        flat = ((0.0,) * len(variants),) * len(tailoring.layers)
        return SlopeEntry(
            step=step,
            loss=None if found is None else found.loss,
            failure=failure,
            slopes=flat if found is None else found.by_layer,
            seconds=round(time.perf_counter() - started, 3),
            layer_tokens=layer_tokens,
        )

    @functools.cached_property
    def layer_tokens(self) -> int:
        """Of the first step; the others take about as many."""
        batches = self._engine.pack(self._passages(0)[0])
        return PASSES * self._engine.family.n_layers * sum(batch.n_tokens for batch in batches)

    def _passages(self, step: int) -> tuple[list[Passage], list[int]]:
        """The gold passages of a step's examples, and the index of each one's task."""
        passages: list[Passage] = []
        owners: list[int] = []
        for index, task in enumerate(self._tasks):
            for number in range(step * self._n_examples, (step + 1) * self._n_examples):
                found = gold_passages(task.examples[number % task.n_examples])
                passages += found
                owners += [index] * len(found)
        return passages, owners


def _is_finite(found: Slopes) -> bool:
    numbers = itertools.chain([found.loss], *found.by_layer)
    return all(map(math.isfinite, numbers))
