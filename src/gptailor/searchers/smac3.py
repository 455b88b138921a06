"""The paper's search: SMAC's random forest, Hyperband, ParEGO; the only module that imports smac.

GPTailor: arXiv 2506.20480; SMAC3: Lindauer et al. 2022. *Differs from the paper:* whether a layer
is cut is one yes or no a layer, where the published code has ordered indices that 1,800 forbidden
clauses keep apart; a merge has parameters only where layers are merged; no two configurations are
the same tailoring. Candidates for the acquisition function are therefore drawn from our own space,
random ones and neighbours of good ones, and never need repair.
"""

import contextlib
import itertools
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.random import Generator

from gptailor.core.objective import Objective
from gptailor.core.params import Choice, Range
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Proposal, Trial
from gptailor.errors import ConfigError
from gptailor.searchers.initial_designs import paper_designs
from gptailor.searchers.mutation import mutate
from gptailor.searchers.param_codec import ParamCodec
from gptailor.searchers.searcher import ProposalGenerator, SearchContext
from gptailor.searchers.space import Space

try:
    import smac
    from ConfigSpace import (
        Categorical,
        Configuration,
        ConfigurationSpace,
        EqualsCondition,
        Float,
        InCondition,
    )
    from smac.intensifier.hyperband import Hyperband
    from smac.main.exceptions import ConfigurationSpaceExhaustedException
    from smac.model.random_forest.random_forest import RandomForest
    from smac.multi_objective.parego import ParEGO
    from smac.runhistory.dataclasses import TrialInfo, TrialValue
    from smac.runhistory.encoder import RunHistoryLogScaledEncoder
    from smac.runhistory.enumerations import StatusType
except ImportError as missing:
    raise ConfigError(
        f"the searcher 'smac' needs a library that is not installed ({missing.name}); "
        "run: pip install 'gptailor[smac]'"
    ) from None

__all__ = ["smac_search"]

_RATES = {"swap": 4.0, "source": 3.0, "merge": 2.0, "outer": 0.5}
_ROUNDS, _BEST = 3, 10  # of the local search: rounds, and candidates each round goes on from


def smac_search(
    context: SearchContext,
    *,
    eta: Annotated[int, Range(2, 100)] = 3,
    batch: Annotated[int, Range(1, 1000)] = 4,
    n_initial: Annotated[int, Range(1, 100_000)] = 1000,
    challengers: Annotated[int, Range(10, 100_000)] = 600,
    scalarisation: Annotated[str, Choice(("parego", "weights"))] = "parego",
) -> ProposalGenerator:
    """Search as the GPTailor paper does.

    The rungs are Hyperband's budgets. Where the budget would end before one candidate is evaluated
    on the last rung, the lowest rungs are left out. With more than four variants, pairs and all of
    them are merged, and no other sets.

    Args:
        context: What the search is about.
        eta: One of so many candidates goes on to the next rung. *Differs from the paper:* its code
            has this option and always uses 3.
        batch: Proposals asked together.
        n_initial: How many of the paper's initial designs are asked before the forest proposes.
        challengers: Candidates on which the acquisition function is evaluated.
        scalarisation: With ``parego`` tasks are weighted at random each time the forest is
            trained; with ``weights`` losses are summed by their weights.
    """
    rungs, objective = context.rungs, context.objective
    while len(rungs) > 1 and sum(eta**rung for rung in range(len(rungs))) > context.max_trials:
        rungs = rungs[1:]
    n_costs = len(objective.goals) if scalarisation == "parego" else 1
    maximiser_rng, design_rng = np.random.default_rng(context.seed).spawn(2)
    codec = _ConfigCodec(context.space)
    designs = _designs(codec, design_rng, n_initial, 2 * eta ** len(rungs))
    optimiser = _optimiser(
        _Maximiser(codec, challengers, maximiser_rng),
        designs,
        context,
        eta=eta,
        n_rungs=len(rungs),
        n_costs=n_costs,
    )
    while infos := _asked(optimiser, batch):
        group = []
        for info in infos:
            rung = round(math.log(info.budget) / math.log(eta))
            origin = str(info.config.origin or "smac").lower()
            group.append(Proposal(codec.tailoring(info.config), rungs[rung], origin))
        yield tuple(group)
        for info, proposal in zip(infos, group, strict=True):
            trial = context.history.trial(proposal.tailoring, proposal.n_examples)
            assert trial is not None, "a generator resumes only after its whole group was evaluated"
            proxy = proposal.n_examples < rungs[-1]
            with _quiet():
                value = _value(objective, trial, n_costs, proxy=proxy)
                optimiser.tell(info, value, save=False)


def _value(objective: Objective, trial: Trial, n_costs: int, *, proxy: bool) -> TrialValue:
    """Costs of a trial: losses of the tasks, or one scalar; a crash where one is not finite."""
    if trial.scores is not None:
        losses = objective.losses(trial.scores, proxy=proxy)
        # The forest is fitted to the logarithm of a single cost: exp makes that the loss itself.
        scalar = math.exp(min(objective.combined(losses), 50.0))
        if np.all(np.isfinite(losses)):
            return TrialValue(cost=losses.tolist() if n_costs > 1 else scalar)
    cost = [math.inf] * n_costs if n_costs > 1 else math.inf
    return TrialValue(cost=cost, status=StatusType.CRASHED)


def _optimiser(
    maximiser: "_Maximiser",
    designs: list[Configuration],
    context: SearchContext,
    *,
    eta: int,
    n_rungs: int,
    n_costs: int,
) -> Any:  # smac has no types
    """Make SMAC's facade; the folder that it writes when it is made is deleted."""
    facade = smac.MultiFidelityFacade
    with tempfile.TemporaryDirectory() as folder, _quiet():
        scenario = smac.Scenario(
            maximiser.codec.configspace,
            objectives=[f"task{i}" for i in range(n_costs)] if n_costs > 1 else "cost",
            min_budget=1 - 1e-6,  # so that rounding never loses the lowest rung
            max_budget=eta ** (n_rungs - 1),
            n_trials=10**9,
            deterministic=True,
            seed=context.seed,
            output_directory=Path(folder),
        )
        return facade(
            scenario,
            initial_design=facade.get_initial_design(
                scenario, n_configs=0, additional_configs=designs
            ),
            # The facade's own forest, but no tree has more leaves than there are trials: smac's
            # 2**20 make scikit-learn reserve, and fill, memory for as many nodes at each fit.
            model=RandomForest(
                scenario.configspace,
                log_y=True,
                ratio_features=1.0,
                min_samples_split=2,
                min_samples_leaf=1,
                max_leaf_nodes=max(2, context.max_trials),
                seed=context.seed,
            ),
            intensifier=Hyperband(scenario, eta=eta, incumbent_selection="highest_budget"),
            multi_objective_algorithm=ParEGO(scenario) if n_costs > 1 else None,
            # A crash has no cost, so the forest must not see it.
            runhistory_encoder=RunHistoryLogScaledEncoder(
                scenario, considered_states=[StatusType.SUCCESS]
            ),
            acquisition_maximizer=maximiser,
            logging_level=False,
            overwrite=True,
        )


def _designs(codec: "_ConfigCodec", rng: Generator, most: int, fewest: int) -> list[Configuration]:
    """The paper's designs; where there are too few for a first bracket, random ones too."""
    designs = list(itertools.islice(paper_designs(codec.space, rng), most))
    drawn = (codec.space.random(rng) for _ in range(20 * fewest))
    while len(designs) < fewest and (tailoring := next(drawn, None)) is not None:
        if codec.params.encodes(tailoring) and tailoring not in designs:
            designs.append(tailoring)
    return [codec.configuration(tailoring, "paper design") for tailoring in designs]


class _ConfigCodec:
    """Tailorings as SMAC's configurations, one for one."""

    def __init__(self, space: Space) -> None:
        self.space, self.params = space, ParamCodec(space)
        self.configspace = ConfigurationSpace(seed=0)
        names = self.params.source_names
        for layer in range(space.n_layers):
            cut = Categorical(f"cut_{layer}", [0, 1]) if layer in space.free else None
            source = Categorical(f"source_{layer}", names) if len(names) > 1 else None
            numbers = {
                key: Float(f"{key}_{layer}", limits.span)
                for key, limits in self.params.params.items()
            }
            parts = [part for part in (cut, source, *numbers.values()) if part is not None]
            self.configspace.add(parts)
            if source is not None and cut is not None:
                self.configspace.add(EqualsCondition(source, cut, 0))
            for key, number in numbers.items():
                merges = list(self.params.merges_by(key))
                self.configspace.add(InCondition(number, source, merges))
        for part in self.params.outer_parts:
            self.configspace.add(Categorical(part, space.outer_members))

    def configuration(self, tailoring: Tailoring, origin: str) -> Configuration:
        """Convert a tailoring that can be encoded."""
        values = self.params.values(tailoring, kept=0, cut=1)
        return Configuration(self.configspace, values=values, origin=origin)

    def tailoring(self, configuration: Mapping[str, Any]) -> Tailoring:
        """Convert a configuration; where SMAC drew one itself, late layers correct the count."""
        values = dict(configuration)
        order = sorted(reversed(self.space.free), key=lambda layer: -values[f"cut_{layer}"])
        return self.params.tailoring(values, order)


class _Maximiser:
    """Finds candidates of high acquisition in our own space, instead of SMAC's maximiser."""

    def __init__(self, codec: _ConfigCodec, challengers: int, rng: Generator) -> None:
        self.codec = codec
        self._challengers = challengers
        self._rng = rng
        self._acquisition_function: Any = None  # SMAC sets it, and checks it by this name
        self.meta = {"name": "gptailor", "challengers": challengers}  # SMAC records it

    @property
    def acquisition_function(self) -> Any:
        """The function that SMAC maximises."""
        return self._acquisition_function

    @acquisition_function.setter
    def acquisition_function(self, function: Any) -> None:
        self._acquisition_function = function

    def maximize(
        self,
        previous_configs: list[Configuration],
        n_points: int | None = None,
        random_design: Any = None,
    ) -> Iterator[Configuration]:
        """Yield candidates of high acquisition first, with random ones in between as SMAC asks."""
        ranked = self._ranked(previous_configs)
        if random_design is not None:
            random_design.next_iteration()
        for turn, (tailoring, origin) in enumerate(ranked, start=1):
            if random_design is not None and random_design.check(turn):
                yield self.codec.configuration(self._random(), "random")
            yield self.codec.configuration(tailoring, origin)

    def _random(self) -> Tailoring:
        while True:
            tailoring = self.codec.space.random(self._rng)
            if self.codec.params.encodes(tailoring):
                return tailoring

    def _ranked(self, previous: list[Configuration]) -> list[tuple[Tailoring, str]]:
        """New candidates and their origins by falling acquisition, from a local search."""
        n_drawn = self._challengers // (_ROUNDS + 1)
        known = {self.codec.tailoring(config): "known" for config in previous}
        found = self._evaluated(known, {})
        drawn = {self._random(): "forest, random" for _ in range(n_drawn)}
        found = self._evaluated(drawn, found)
        for _ in range(_ROUNDS):
            best = list(found)[:_BEST]
            neighbours = {}
            for turn in range(n_drawn):
                parent = best[turn % len(best)]
                child = mutate(self.codec.space, parent, self._rng, rates=_RATES)
                if child is not None and self.codec.params.encodes(child[0]):
                    neighbours[child[0]] = f"forest, {child[1]}"
            found = self._evaluated(neighbours, found)
        return [(each, origin) for each, (_, origin) in found.items() if origin != "known"]

    def _evaluated(
        self, origins: dict[Tailoring, str], found: dict[Tailoring, tuple[float, str]]
    ) -> dict[Tailoring, tuple[float, str]]:
        """Add the acquisition and origin of new tailorings; the highest acquisition first."""
        fresh = [each for each in origins if each not in found]
        if fresh:
            configs = [self.codec.configuration(each, origins[each]) for each in fresh]
            values = np.asarray(self._acquisition_function(configs)).ravel().tolist()
            pairs = zip(values, (origins[each] for each in fresh), strict=True)
            found = found | dict(zip(fresh, pairs, strict=True))
        return dict(sorted(found.items(), key=lambda item: item[1][0], reverse=True))


def _asked(optimiser: Any, n: int) -> list[TrialInfo]:
    infos: list[TrialInfo] = []
    with _quiet():
        for _ in range(n):
            try:
                infos.append(optimiser.ask())
            except (StopIteration, ConfigurationSpaceExhaustedException):
                break
    return infos


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence SMAC's warnings (an empty design, a cost of 0)."""
    logging.getLogger("smac").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield
