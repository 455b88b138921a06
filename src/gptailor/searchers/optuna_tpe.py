"""Optuna's samplers (TPE, NSGA-II, random) over tailorings; the only module that imports optuna.

Optuna's cost is per suggested parameter, so a candidate has few: one number a layer, of which the
highest are cut, a source and, where layers may be merged, the merge's numbers. Parameters of cut
layers are suggested without effect, so that all candidates have the same parameters and TPE can
model them jointly. Its storage is in memory, and is filled again when a study resumes.
"""

import math
import warnings
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from gptailor.core.objective import Objective
from gptailor.core.params import Choice, Range
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Proposal, Trial
from gptailor.errors import ConfigError
from gptailor.searchers.initial_designs import first_designs
from gptailor.searchers.param_codec import ParamCodec
from gptailor.searchers.searcher import ProposalGenerator, SearchContext, rung_index
from gptailor.searchers.space import Space

try:
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
except ImportError as missing:
    raise ConfigError(
        f"the searcher 'optuna' needs a library that is not installed ({missing.name}); "
        "run: pip install 'gptailor[optuna]'"
    ) from None

__all__ = ["optuna_search"]

_TRIES = 200  # suggestions that the family refuses, before a random tailoring is asked


def optuna_search(
    context: SearchContext,
    *,
    sampler: Annotated[str, Choice(("tpe", "nsga2", "random"))] = "tpe",
    rung: Annotated[int, rung_index] = -1,
    batch: Annotated[int, Range(1, 1000)] = 4,
    n_initial: Annotated[int, Range(0, 10_000)] = 10,
) -> ProposalGenerator:
    """Let one of Optuna's samplers search; all candidates are evaluated on the same examples.

    The weighted sum of the losses is minimised; with ``nsga2`` each task's loss.

    Args:
        context: What the search is about.
        sampler: ``tpe``, ``nsga2`` or ``random``.
        rung: Index of the rung on which all are evaluated; -1 is the last.
        batch: Proposals asked together.
        n_initial: Initial designs before the sampler's own: late blocks, plain merges, random.
    """
    n_losses = len(context.objective.goals) if sampler == "nsga2" else 1
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        sampler=_sampler(sampler, context, n_initial), directions=["minimize"] * n_losses
    )
    suggestions = _Suggestions(context.space, study, context.seed)
    designs = first_designs(context.space, np.random.default_rng(context.seed))
    for _ in range(n_initial):
        suggestions.enqueue(next(designs))
    n_examples = context.rungs[rung]
    while True:
        suggested = [suggestions.draw() for _ in range(batch)]
        yield tuple(Proposal(each, n_examples, sampler) for _, each in suggested)
        for suggestion, tailoring in suggested:
            trial = context.history.trial(tailoring, n_examples)
            assert trial is not None, "a generator resumes only after its whole group was evaluated"
            losses = _losses(context.objective, trial, proxy=n_examples < context.rungs[-1])
            if losses is None:
                study.tell(suggestion, state=optuna.trial.TrialState.FAIL)
            elif n_losses > 1:
                study.tell(suggestion, losses.tolist())
            else:
                study.tell(suggestion, context.objective.combined(losses))


def _losses(objective: Objective, trial: Trial, *, proxy: bool) -> NDArray[np.float64] | None:
    """Losses of a trial, shape (n_tasks,); None where it failed or one is not finite."""
    losses = None if trial.scores is None else objective.losses(trial.scores, proxy=proxy)
    return losses if losses is not None and np.all(np.isfinite(losses)) else None


def _sampler(name: str, context: SearchContext, n_initial: int) -> optuna.samplers.BaseSampler:
    if name == "random":
        return optuna.samplers.RandomSampler(seed=context.seed)
    if name == "nsga2":
        population = max(4, min(50, math.isqrt(context.max_trials) * 2))
        return optuna.samplers.NSGAIISampler(seed=context.seed, population_size=population)
    with warnings.catch_warnings(action="ignore"):  # that multivariate is experimental
        return optuna.samplers.TPESampler(
            seed=context.seed, multivariate=True, constant_liar=True, n_startup_trials=n_initial
        )


class _Suggestions:
    """Tailorings that the sampler suggests; several sets of parameters may be one tailoring."""

    def __init__(self, space: Space, study: optuna.Study, seed: int) -> None:
        self._codec, self._study, self._seed = ParamCodec(space), study, seed
        self._distributions: dict[str, BaseDistribution] = {}
        for layer in range(space.n_layers):
            if layer in space.free and space.n_removed:
                self._distributions[f"cut_{layer}"] = FloatDistribution(0.0, 1.0)
            if len(self._codec.source_names) > 1:
                names = CategoricalDistribution(self._codec.source_names)
                self._distributions[f"source_{layer}"] = names
            for key, limits in self._codec.params.items():
                self._distributions[f"{key}_{layer}"] = FloatDistribution(*limits.span)
        for part in self._codec.outer_parts:
            self._distributions[part] = CategoricalDistribution(space.outer_members)

    def enqueue(self, tailoring: Tailoring) -> None:
        """Have a tailoring suggested; the sampler chooses parameters that it does not have."""
        values = self._codec.values(tailoring, kept=0.25, cut=0.75)
        self._study.enqueue_trial({k: v for k, v in values.items() if k in self._distributions})

    def draw(self) -> tuple[optuna.trial.Trial, Tailoring]:
        """Ask the sampler until the family allows what it suggests."""
        space = self._codec.space
        for _ in range(_TRIES):
            with warnings.catch_warnings(action="ignore"):  # an enqueued value off the grid, say
                trial = self._study.ask(self._distributions)
            numbers = {layer: float(trial.params.get(f"cut_{layer}", 0)) for layer in space.free}
            order = sorted(space.free, key=numbers.__getitem__, reverse=True)
            tailoring = self._codec.tailoring(trial.params, order)
            if space.accepts(tailoring):
                return trial, tailoring
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        trial = self._study.ask(self._distributions)
        return trial, space.random(np.random.default_rng((self._seed, trial.number)))
