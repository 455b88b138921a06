"""Optuna's samplers (TPE, NSGA-II, random) over tailorings; the door to optuna's samplers.

Optuna's cost is per suggested parameter, so a candidate is told in few: one number a layer, of
which the highest are cut; a source and, where something may be merged, its numbers. Parameters of
cut layers are suggested without effect, which keeps the space the same for all and lets TPE see
parameters together. Knows nothing of files: the storage is in memory, and is filled again when a
stopped study is replayed.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np

from gptailor.core.objective import Objective
from gptailor.core.params import Choice, Range
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.core.trial import Proposal, Trial
from gptailor.errors import ConfigError
from gptailor.searchers.ask_tell import AskTell, Group, ProposalGenerator, checked_rungs
from gptailor.searchers.declaration import check_options, rung_limits
from gptailor.searchers.history import History
from gptailor.searchers.initial_designs import first_designs
from gptailor.searchers.layer_sources import Sources
from gptailor.searchers.space import Space, kept_positions

try:
    import optuna
    from optuna.distributions import (
        BaseDistribution,
        CategoricalDistribution,
        FloatDistribution,
    )
except ImportError as missing:
    raise ConfigError(
        f"the searcher 'optuna' needs a library that is not installed ({missing.name}); "
        "run: pip install 'gptailor[optuna]'"
    ) from None

__all__ = ["OptunaSearch"]

_BATCH = Range(1, 1000, default=4, integer=True)
_STARTUP = Range(0, 10_000, default=10, integer=True)
_TRIES = 200  # draws that the family refuses, before a random tailoring is asked

Values = Mapping[str, float | str]


@dataclass(eq=False)
class OptunaSearch:
    """Let one of Optuna's samplers search; every candidate is judged on the same examples.

    Args:
        space: What may be proposed.
        objective: What is minimised: the weighted sum; each task on its own with ``nsga2``.
        rungs: Rising numbers of examples a task.
        max_trials: The most proposals asked.
        seed: Equal seeds and equal scores propose the same.
        sampler: ``tpe``, ``nsga2`` or ``random``.
        rung: Which of `rungs` all are judged on; -1 is the last.
        batch: Proposals asked together.
        startup: First candidates that are not the sampler's: late blocks, plain merges, random.

    Raises:
        ConfigError: An option is out of its limits.
    """

    _: KW_ONLY
    space: Space
    objective: Objective
    rungs: tuple[int, ...]
    max_trials: int
    seed: int
    sampler: str = "tpe"
    rung: int = -1
    batch: int = 4
    startup: int = 10
    _history: History = field(init=False, repr=False, default_factory=History)
    _dialogue: AskTell = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.rungs = checked_rungs(self.rungs, self.max_trials)
        options = {name: vars(self)[name] for name in ("sampler", "rung", "batch", "startup")}
        limits: dict[str, Range | Choice] = {
            "sampler": Choice(("tpe", "nsga2", "random"), default="tpe"),
            "rung": rung_limits(self.rungs),
            "batch": _BATCH,
            "startup": _STARTUP,
        }
        check_options("optuna", options, limits)
        self._dialogue = AskTell(self._plan(), self._history, max_trials=self.max_trials)

    def ask(self) -> Group:
        """Propose what the sampler suggests."""
        return self._dialogue.ask()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the group last asked."""
        self._dialogue.tell(trials)

    def _plan(self) -> ProposalGenerator:
        rng = np.random.default_rng(self.seed)
        code, study = _Code(self.space), self._study()
        designs = first_designs(self.space, rng)
        for _ in range(self.startup):
            study.enqueue_trial(code.values(next(designs)))
        while True:
            suggested = [self._suggest(code, study) for _ in range(self.batch)]
            group = [Proposal(each, self.rungs[self.rung], self.sampler) for _, each in suggested]
            yield tuple(group)
            for (trial, _), proposal in zip(suggested, group, strict=True):
                told = self._history.trial(proposal.tailoring, proposal.n_examples)
                assert told is not None, "a plan goes on only when its whole group is told"
                self._tell(study, trial, told)

    def _suggest(self, code: "_Code", study: optuna.Study) -> tuple[optuna.trial.Trial, Tailoring]:
        """Ask the sampler until the family allows what it suggests."""
        for _ in range(_TRIES):
            with warnings.catch_warnings(action="ignore"):  # an enqueued value off the grid, say
                trial = study.ask(code.distributions)
            tailoring = code.tailoring(trial.params)
            if self.space.accepts(tailoring):
                return trial, tailoring
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        trial = study.ask(code.distributions)
        return trial, self.space.random(np.random.default_rng((self.seed, trial.number)))

    def _tell(self, study: optuna.Study, trial: optuna.trial.Trial, told: Trial) -> None:
        """Tell losses; a failed trial, or one without a finite loss, is a failure there too."""
        losses = None
        if told.scores is not None:
            proxy = told.proposal.n_examples < self.rungs[-1]
            losses = self.objective.losses(told.scores, proxy=proxy)
        if losses is None or not np.all(np.isfinite(losses)):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        elif self._many_losses:
            study.tell(trial, losses.tolist())
        else:
            study.tell(trial, float(self.objective.weights @ losses))

    @property
    def _many_losses(self) -> bool:
        return self.sampler == "nsga2" and len(self.objective.goals) > 1

    def _study(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        n_losses = len(self.objective.goals) if self._many_losses else 1
        return optuna.create_study(sampler=self._sampler(), directions=["minimize"] * n_losses)

    def _sampler(self) -> optuna.samplers.BaseSampler:
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=self.seed)
        if self.sampler == "nsga2":
            population = max(4, min(50, math.isqrt(self.max_trials) * 2))
            return optuna.samplers.NSGAIISampler(seed=self.seed, population_size=population)
        with warnings.catch_warnings(action="ignore"):  # multivariate is told to be experimental
            return optuna.samplers.TPESampler(
                seed=self.seed, multivariate=True, constant_liar=True, n_startup_trials=self.startup
            )


class _Code:
    """Tailorings as Optuna's parameters; many parameters may say the same tailoring."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.sources = Sources(space)
        self.distributions: dict[str, BaseDistribution] = {}
        for layer in range(space.n_layers):
            if layer in space.free and space.n_removed:
                self.distributions[f"cut_{layer}"] = FloatDistribution(0.0, 1.0)
            if len(self.sources.names) > 1:
                self.distributions[f"source_{layer}"] = CategoricalDistribution(self.sources.names)
            for key, limits in self.sources.params().items():
                self.distributions[f"{key}_{layer}"] = FloatDistribution(*limits.span)
        for part in ("embedding", "norm") if len(space.outer_members) > 1 else ():
            self.distributions[part] = CategoricalDistribution(space.outer_members)

    def tailoring(self, values: Values) -> Tailoring:
        """Read parameters: of the free layers those with the highest numbers are cut."""
        order = sorted(
            self.space.free, key=lambda layer: float(values.get(f"cut_{layer}", 0)), reverse=True
        )
        layers: dict[int, LayerSpec] = {}
        for layer in self.space.kept(order[: self.space.n_removed]):
            name = str(values.get(f"source_{layer}", self.sources.names[0]))
            numbers = {key: float(values[f"{key}_{layer}"]) for key in self.sources.params()}
            layers[layer] = self.sources.spec(layer, name, numbers)
        embedding, norm = (
            LayerSpec((Source(str(values.get(part, self.space.outer_members[0]))),))
            for part in ("embedding", "norm")
        )
        return self.space.tailoring(layers, embedding, norm)

    def values(self, tailoring: Tailoring) -> dict[str, float | str]:
        """Write a tailoring as parameters; what has no name here is left to the sampler."""
        kept = dict(zip(kept_positions(tailoring), tailoring.layers, strict=True))
        values: dict[str, float | str] = {}
        for layer in range(self.space.n_layers):
            values[f"cut_{layer}"] = 0.25 if layer in kept else 0.75
            named = self.sources.name(kept[layer]) if layer in kept else None
            if named is not None:
                values[f"source_{layer}"] = named[0]
                values |= {f"{key}_{layer}": number for key, number in named[1].items()}
        values["embedding"] = tailoring.embedding.sources[0].member
        values["norm"] = tailoring.outer_parts["norm"].sources[0].member
        return {key: value for key, value in values.items() if key in self.distributions}
