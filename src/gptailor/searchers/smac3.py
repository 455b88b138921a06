"""The paper's search: SMAC's random forest, Hyperband and ParEGO; the door to smac.

GPTailor: arXiv 2506.20480; SMAC3: Lindauer et al. 2022. *Differs from the paper:* whether a layer
is cut is one yes or no a layer, where the published code has ordered indices that 1,800 forbidden
clauses keep apart; a merge has parameters only where something is merged; nothing is encoded twice
and nothing without effect. Candidates for the acquisition function are therefore drawn from our own
space, random ones and neighbours of good ones, and never need repair. Knows nothing of weights.
"""

import contextlib
import itertools
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gptailor.core.objective import Objective
from gptailor.core.params import Choice, Range
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.core.trial import Proposal, Trial
from gptailor.errors import ConfigError
from gptailor.searchers.ask_tell import AskTell, Group, ProposalGenerator, checked_rungs
from gptailor.searchers.declaration import check_options
from gptailor.searchers.history import History
from gptailor.searchers.initial_designs import paper_designs
from gptailor.searchers.layer_sources import Sources
from gptailor.searchers.mutation import mutate
from gptailor.searchers.space import Space, kept_positions

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
    from smac.multi_objective.parego import ParEGO
    from smac.runhistory.dataclasses import TrialInfo, TrialValue
    from smac.runhistory.encoder import RunHistoryLogScaledEncoder
    from smac.runhistory.enumerations import StatusType
except ImportError as missing:
    raise ConfigError(
        f"the searcher 'smac' needs a library that is not installed ({missing.name}); "
        "run: pip install 'gptailor[smac]'"
    ) from None

__all__ = ["Smac"]

_LIMITS: dict[str, Range | Choice] = {
    "eta": Range(2, 100, default=3, integer=True),
    "batch": Range(1, 1000, default=4, integer=True),
    "designs": Range(1, 100_000, default=1000, integer=True),
    "challengers": Range(10, 100_000, default=600, integer=True),
    "scalarisation": Choice(("parego", "weights"), default="parego"),
}
_RATES = {"swap": 4.0, "source": 3.0, "merge": 2.0, "giver": 0.5}
_ROUNDS, _BEST = 3, 10  # of the local search: rounds, and how many each goes on from


@dataclass(eq=False)
class Smac:
    """Search as the GPTailor paper does.

    Args:
        space: What may be proposed. Where it has more than four variants, pairs and all of them
            are merged, and no other sets.
        objective: What is minimised.
        rungs: Rising numbers of examples a task: Hyperband's budgets. Where `max_trials` would
            end before one candidate comes to the last, the lowest are left out.
        max_trials: The most proposals asked, each rung of each candidate counting as one.
        seed: Equal seeds and equal scores propose the same.
        eta: One of so many candidates goes on to the next rung. *Differs from the paper:* its code
            takes this option and always uses 3.
        batch: Proposals asked together.
        designs: How many of the paper's initial designs are asked before the forest proposes.
        challengers: Candidates that the acquisition function is evaluated on.
        scalarisation: With ``parego`` tasks are weighted at random each time the forest is
            trained; with ``weights`` they add up by their weights.

    Raises:
        ConfigError: An option is out of its limits.
    """

    _: KW_ONLY
    space: Space
    objective: Objective
    rungs: tuple[int, ...]
    max_trials: int
    seed: int
    eta: int = 3
    batch: int = 4
    designs: int = 1000
    challengers: int = 600
    scalarisation: str = "parego"
    _history: History = field(init=False, repr=False, default_factory=History)
    _dialogue: AskTell = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.rungs = checked_rungs(self.rungs, self.max_trials)
        check_options("smac", {name: vars(self)[name] for name in _LIMITS}, _LIMITS)
        while len(self.rungs) > 1 and self._first_bracket > self.max_trials:
            self.rungs = self.rungs[1:]
        self._dialogue = AskTell(self._plan(), self._history, max_trials=self.max_trials)

    def ask(self) -> Group:
        """Propose what Hyperband wants next."""
        return self._dialogue.ask()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the group last asked."""
        self._dialogue.tell(trials)

    def _plan(self) -> ProposalGenerator:
        code = _Code(self.space)
        optimiser = self._optimiser(code)
        while infos := _asked(optimiser, self.batch):
            group = [self._proposal(code, info) for info in infos]
            yield tuple(group)
            for info, proposal in zip(infos, group, strict=True):
                trial = self._history.trial(proposal.tailoring, proposal.n_examples)
                assert trial is not None, "a plan goes on only when its whole group is told"
                with _quiet():
                    optimiser.tell(info, self._value(trial), save=False)

    def _proposal(self, code: "_Code", info: TrialInfo) -> Proposal:
        rung = round(math.log(info.budget) / math.log(self.eta))
        tailoring = code.tailoring(dict(info.config))
        return Proposal(tailoring, self.rungs[rung], str(info.config.origin or "smac").lower())

    def _value(self, trial: Trial) -> TrialValue:
        many = self._many_costs
        if trial.scores is not None:
            proxy = trial.proposal.n_examples < self.rungs[-1]
            losses = self.objective.losses(trial.scores, proxy=proxy)
            # The forest sees the logarithm of a single cost: exp gives it the loss itself.
            scalar = math.exp(min(float(self.objective.weights @ losses), 50.0))
            if np.all(np.isfinite(losses)):
                return TrialValue(cost=losses.tolist() if many else scalar)
        cost = [math.inf] * len(self.objective.goals) if many else math.inf
        return TrialValue(cost=cost, status=StatusType.CRASHED)

    @property
    def _first_bracket(self) -> int:
        """Trials after which Hyperband has tried a candidate on the last rung."""
        return sum(self.eta**rung for rung in range(len(self.rungs)))

    @property
    def _many_costs(self) -> bool:
        return self.scalarisation == "parego" and len(self.objective.goals) > 1

    def _optimiser(self, code: "_Code") -> Any:  # smac has no types
        """Put SMAC together; it writes a folder when it is made, which is thrown away."""
        facade = smac.MultiFidelityFacade
        maximiser_rng, design_rng = np.random.default_rng(self.seed).spawn(2)
        objectives = [f"task{index}" for index in range(len(self.objective.goals))]
        with tempfile.TemporaryDirectory() as folder, _quiet():
            scenario = smac.Scenario(
                code.configspace,
                objectives=objectives if self._many_costs else "cost",
                min_budget=1 - 1e-6,  # so that rounding never loses the lowest rung
                max_budget=self.eta ** (len(self.rungs) - 1),
                n_trials=10**9,
                deterministic=True,
                seed=self.seed,
                output_directory=Path(folder),
            )
            return facade(
                scenario,
                initial_design=facade.get_initial_design(
                    scenario, n_configs=0, additional_configs=self._designs(code, design_rng)
                ),
                intensifier=Hyperband(scenario, eta=self.eta, incumbent_selection="highest_budget"),
                multi_objective_algorithm=ParEGO(scenario) if self._many_costs else None,
                # A crash has no cost, so the forest must not see it.
                runhistory_encoder=RunHistoryLogScaledEncoder(
                    scenario, considered_states=[StatusType.SUCCESS]
                ),
                acquisition_maximizer=_Maximiser(code, self.challengers, maximiser_rng),
                logging_level=False,
                overwrite=True,
            )

    def _designs(self, code: "_Code", rng: np.random.Generator) -> list[Configuration]:
        """The paper's designs; where there are too few for a first bracket, random ones too."""
        designs = list(itertools.islice(paper_designs(self.space, rng), self.designs))
        fewest = 2 * self.eta ** len(self.rungs)
        drawn = (self.space.random(rng) for _ in range(20 * fewest))
        while len(designs) < fewest and (tailoring := next(drawn, None)) is not None:
            if code.holds(tailoring) and tailoring not in designs:
                designs.append(tailoring)
        return [code.configuration(tailoring, "paper design") for tailoring in designs]


class _Code:
    """Tailorings as SMAC's configurations, one for one."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.sources = Sources(space)
        self.configspace = ConfigurationSpace(seed=0)
        names, params = self.sources.names, self.sources.params()
        for layer in range(space.n_layers):
            cut = Categorical(f"cut_{layer}", [0, 1]) if layer in space.free else None
            source = Categorical(f"source_{layer}", names) if len(names) > 1 else None
            numbers = {key: Float(f"{key}_{layer}", params[key].span) for key in params}
            parts = [part for part in (cut, source, *numbers.values()) if part is not None]
            self.configspace.add(parts)
            if source is not None and cut is not None:
                self.configspace.add(EqualsCondition(source, cut, 0))
            for key, number in numbers.items():
                self.configspace.add(InCondition(number, source, list(self.sources.users(key))))
        for part in ("embedding", "norm") if len(space.outer_members) > 1 else ():
            self.configspace.add(Categorical(part, space.outer_members))

    def holds(self, tailoring: Tailoring) -> bool:
        """Whether there is a configuration for a tailoring."""
        return all(self.sources.name(spec) is not None for spec in tailoring.layers)

    def configuration(self, tailoring: Tailoring, origin: str) -> Configuration:
        """Write a tailoring as a configuration."""
        kept = dict(zip(kept_positions(tailoring), tailoring.layers, strict=True))
        values: dict[str, Any] = {
            f"cut_{layer}": int(layer not in kept) for layer in self.space.free
        }
        for layer, spec in kept.items():
            named = self.sources.name(spec)
            assert named is not None, "only tailorings that hold are written"
            if len(self.sources.names) > 1:
                values[f"source_{layer}"] = named[0]
            values |= {f"{key}_{layer}": number for key, number in named[1].items()}
        if len(self.space.outer_members) > 1:
            values["embedding"] = tailoring.embedding.sources[0].member
            values["norm"] = tailoring.outer_parts["norm"].sources[0].member
        return Configuration(self.configspace, values=values, origin=origin)

    def tailoring(self, values: Mapping[str, Any]) -> Tailoring:
        """Read a configuration; where SMAC drew one itself, the latest layers mend the count."""
        cuts = [layer for layer in self.space.free if values[f"cut_{layer}"]]
        rest = [layer for layer in self.space.free if layer not in cuts]
        cuts = [*reversed(cuts), *reversed(rest)][: self.space.n_removed]
        layers: dict[int, LayerSpec] = {}
        for layer in self.space.kept(cuts):
            name = str(values.get(f"source_{layer}", self.sources.names[0]))
            numbers = {
                key: float(values[f"{key}_{layer}"])
                for key in self.sources.params()
                if f"{key}_{layer}" in values
            }
            layers[layer] = self.sources.spec(layer, name, numbers)
        embedding, norm = (
            LayerSpec((Source(str(values.get(part, self.space.outer_members[0]))),))
            for part in ("embedding", "norm")
        )
        return self.space.tailoring(layers, embedding, norm)


class _Maximiser:
    """Finds candidates of high acquisition in our own space; in the place of SMAC's maximiser."""

    def __init__(self, code: _Code, challengers: int, rng: np.random.Generator) -> None:
        self._code = code
        self._challengers = challengers
        self._rng = rng
        self._acquisition_function: Any = None  # SMAC sets it, and checks it by this name

    @property
    def acquisition_function(self) -> Any:
        """What SMAC wants maximised."""
        return self._acquisition_function

    @acquisition_function.setter
    def acquisition_function(self, function: Any) -> None:
        self._acquisition_function = function

    @property
    def meta(self) -> dict[str, Any]:
        """What SMAC writes down of it."""
        return {"name": "gptailor", "challengers": self._challengers}

    def maximize(
        self,
        previous_configs: list[Configuration],
        n_points: int | None = None,
        random_design: Any = None,
    ) -> Iterator[Configuration]:
        """Yield candidates, the most promising first, random ones in between as SMAC asks."""
        ranked = self._ranked(previous_configs)
        if random_design is not None:
            random_design.next_iteration()
        for turn, (tailoring, origin) in enumerate(ranked, start=1):
            if random_design is not None and random_design.check(turn):
                yield self._code.configuration(self._random(), "random")
            yield self._code.configuration(tailoring, origin)

    def _random(self) -> Tailoring:
        while True:
            tailoring = self._code.space.random(self._rng)
            if self._code.holds(tailoring):
                return tailoring

    def _ranked(self, previous: list[Configuration]) -> list[tuple[Tailoring, str]]:
        share = self._challengers // (_ROUNDS + 1)
        values: dict[Tailoring, float] = {}
        origins: dict[Tailoring, str] = {}
        known = [self._code.tailoring(dict(config)) for config in previous]
        self._value({each: "known" for each in known}, values, origins)
        drawn = {self._random(): "forest, random" for _ in range(share)}
        self._value(drawn, values, origins)
        for _ in range(_ROUNDS):
            best = sorted(values, key=values.__getitem__, reverse=True)[:_BEST]
            self._value(self._neighbours(best, share), values, origins)
        order = sorted(values, key=values.__getitem__, reverse=True)
        return [(each, origins[each]) for each in order if origins[each] != "known"]

    def _neighbours(self, best: list[Tailoring], n: int) -> dict[Tailoring, str]:
        found: dict[Tailoring, str] = {}
        for turn in range(n):
            parent = best[turn % len(best)]
            child = mutate(self._code.space, parent, self._rng, rates=_RATES)
            if child is not None and self._code.holds(child[0]):
                found[child[0]] = f"forest, {child[1]}"
        return found

    def _value(
        self,
        tailorings: dict[Tailoring, str],
        values: dict[Tailoring, float],
        origins: dict[Tailoring, str],
    ) -> None:
        """Add the acquisition values of tailorings that have none yet."""
        fresh = [each for each in tailorings if each not in values]
        if fresh:
            configs = [self._code.configuration(each, tailorings[each]) for each in fresh]
            found = np.asarray(self._acquisition_function(configs)).ravel()
            values |= dict(zip(fresh, found.tolist(), strict=True))
            origins |= {each: tailorings[each] for each in fresh}


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
    """Keep SMAC's own warnings (an empty design, a cost of 0) from our users."""
    logging.getLogger("smac").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        yield
