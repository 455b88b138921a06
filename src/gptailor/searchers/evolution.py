"""Evolution of tailorings: the default search.

It starts by probing what is lost without each layer. A generation is the children of one parent:
they are asked together, so that the engine runs their shared prefixes once, and race over the
rungs; who ends on the last rung joins the elite, whose members are all compared on the same
examples and are the parents to come. Knows nothing of weights or of how proposals are evaluated.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
from numpy.typing import NDArray

from gptailor.core.objective import Objective
from gptailor.core.params import Choice, Range
from gptailor.core.pareto import draw_weights
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Trial
from gptailor.searchers.ablation import probe, probed_designs
from gptailor.searchers.ask_tell import AskTell, Group, ProposalGenerator, checked_rungs
from gptailor.searchers.declaration import check_options
from gptailor.searchers.halving import Judge, n_entrants, race
from gptailor.searchers.history import History
from gptailor.searchers.initial_designs import Cuts, first_designs
from gptailor.searchers.mutation import crossover, mutate
from gptailor.searchers.space import Space
from gptailor.searchers.surrogate import Surrogate, describe, fit

__all__ = ["Evolution"]

_TRIES = 20  # draws beyond three a child before a generation is content with fewer
_FEWEST = 8  # candidates from which a model is fitted
_MEMORY = 1000  # candidates that a model is fitted to: its cost must not grow with the run

_LIMITS: dict[str, Range | Choice] = {
    "population": Range(1, 1000, default=4, integer=True),
    "children": Range(1, 1000, default=9, integer=True),
    "seeds": Range(1, 10_000, default=16, integer=True),
    "share": Range(0.01, 1.0, default=1 / 3),
    "doubt": Range(0.0, 100.0, default=1.0),
    "tie": Range(0.0, 100.0, default=0.5),
    "mutation_rate": Range(1.0, 100.0, default=1.5),
    "crossover_rate": Range(0.0, 1.0, default=0.1),
    "swap_rate": Range(0.0, 100.0, default=5.0),
    "source_rate": Range(0.0, 100.0, default=3.0),
    "merge_rate": Range(0.0, 100.0, default=1.5),
    "giver_rate": Range(0.0, 100.0, default=0.3),
    "share_prefix": Range(0.0, 1.0, default=0.65),
    "probes": Range(0.0, 1.0, default=0.75),
    "guided": Range(0.0, 1.0, default=0.8),
    "pool": Range(1, 1000, default=12, integer=True),
    "scalarisation": Choice(("weights", "parego"), default="weights"),
}


@dataclass(eq=False)
class Evolution:
    """Evolve tailorings by small changes, judged on few examples first.

    Args:
        space: What may be proposed.
        objective: What is minimised.
        rungs: Rising numbers of examples a task.
        max_trials: The most proposals asked, each rung of each candidate counting as one.
        seed: Equal seeds and equal scores propose the same.
        population: How many of the elite may be parents. More explores, fewer is faster.
        children: How many children of one parent start a race.
        seeds: How many first designs start the first race; less where the budget is small.
        share: Which share of a race goes on to the next rung.
        doubt: A child that is worse than its parent by so many standard errors, on the examples
            both saw, does not go on.
        tie: On the last rung, candidates within so many standard errors of the best are told
            apart by the continuous proxy.
        mutation_rate: How many changes a child has on average; at least one.
        crossover_rate: Which share of the children comes from two parents.
        swap_rate: How often a cut changes places with a kept layer, relative to the other rates.
        source_rate: How often layers are taken from elsewhere.
        merge_rate: How often a merge's members or parameters change.
        giver_rate: How often another member gives embedding, or norm and head.
        share_prefix: 0 changes every position alike; towards 1 children differ from their parent
            later, and are cheaper.
        probes: Which share of the budget may go into probes: the base without one layer, on the
            fewest examples, and in later rounds without one more. They have fewer layers cut than
            wanted and are no results, but they find a good set of cuts fast; none where the
            budget's share is smaller than the number of layers.
        guided: Which share of the children is picked by a linear model of the loss, fitted to all
            trials so far; the others are drawn blindly.
        pool: From how many children the model picks each.
        scalarisation: With ``weights`` tasks add up by their weights; with ``parego`` each
            generation draws weights, so that the run spreads along the Pareto front.

    Raises:
        ConfigError: An option is out of its limits.
    """

    _: KW_ONLY
    space: Space
    objective: Objective
    rungs: tuple[int, ...]
    max_trials: int
    seed: int
    population: int = 4
    children: int = 9
    seeds: int = 16
    share: float = 1 / 3
    doubt: float = 1.0
    tie: float = 0.5
    mutation_rate: float = 1.5
    crossover_rate: float = 0.1
    swap_rate: float = 5.0
    source_rate: float = 3.0
    merge_rate: float = 1.5
    giver_rate: float = 0.3
    share_prefix: float = 0.65
    probes: float = 0.75
    guided: float = 0.8
    pool: int = 12
    scalarisation: str = "weights"
    _history: History = field(init=False, repr=False, default_factory=History)
    _rows: dict[Tailoring, NDArray[np.float64]] = field(
        init=False, repr=False, default_factory=dict
    )
    _dialogue: AskTell = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.rungs = checked_rungs(self.rungs, self.max_trials)
        options = {name: vars(self)[name] for name in _LIMITS}
        check_options("evolution", options, _LIMITS)
        self._dialogue = AskTell(self._plan(), self._history, max_trials=self.max_trials)

    def ask(self) -> Group:
        """Propose the next step of a race."""
        return self._dialogue.ask()

    def tell(self, trials: Sequence[Trial]) -> None:
        """Take the trials of the group last asked."""
        self._dialogue.tell(trials)

    def _plan(self) -> ProposalGenerator:
        """Probe the layers, race the seeds, then generation after generation."""
        start, rng = np.random.default_rng(self.seed).spawn(2)
        judge = self._judge(start)
        n_probes = int(self.probes * self.max_trials)
        cuts = yield from probe(self.space, judge, n_probes)
        first, size = self._size(max(self.seeds, self.children), self._dialogue.left // 2)
        entrants = dict(itertools.islice(self._seeds(judge, cuts, start), 4 * size))
        yield from race(list(entrants.items())[:size], judge, share=self.share, first=first)
        while True:
            yield from self._generation(rng)

    def _seeds(
        self, judge: Judge, cuts: Cuts, rng: np.random.Generator
    ) -> Iterator[tuple[Tailoring, str]]:
        """First candidates, the likeliest first and without end; what was probed comes first."""
        model = self._model(judge) if cuts else None
        if model is not None:
            drawn = (self._least_missed(model.draw(rng)) for _ in range(2 * self.seeds))
            for design in probed_designs(self.space, itertools.chain([cuts], drawn)):
                yield design, "least missed"
        for design in first_designs(self.space, rng):
            yield design, "seed"

    def _least_missed(self, coefficients: NDArray[np.float64]) -> Cuts:
        """The layers that cost least to cut; the first coefficients are those of cuts."""
        order = sorted(self.space.free, key=lambda layer: float(coefficients[layer]))
        return tuple(sorted(order[: self.space.n_removed]))

    def _generation(self, rng: np.random.Generator) -> ProposalGenerator:
        judge = self._judge(rng)
        elite = self._elite(judge)
        first, size = self._size(self.children, self._dialogue.left)
        parent, children = self._children(judge, elite, size, rng) if elite else (None, [])
        if not children:  # all failed, or everything near was tried
            children = [(self.space.random(rng), "random") for _ in range(size)]
        yield from race(
            children, judge, share=self.share, doubt=self.doubt, parent=parent, first=first
        )

    def _judge(self, rng: np.random.Generator) -> Judge:
        weights = None
        if self.scalarisation == "parego" and len(self.objective.goals) > 1:
            weights = draw_weights(len(self.objective.goals), rng)
        return Judge(self.objective, self._history, self.rungs, self.tie, weights)

    def _size(self, wanted: int, budget: int) -> tuple[int, int]:
        """The rung a race starts on and its entrants, so that it ends within the budget."""
        budget = max(1, budget)
        first = max(0, len(self.rungs) - budget)
        most = n_entrants(budget, len(self.rungs) - first, self.share)
        return first, max(1, min(wanted, most))

    def _elite(self, judge: Judge) -> list[Tailoring]:
        """The best of those tried on the most examples that any was tried on; never a probe."""
        for n_examples in reversed(self.rungs):
            tried = (trial.tailoring for trial in self._history.complete(n_examples))
            results = [each for each in tried if len(each.layers) == self.space.n_kept]
            if results:
                return judge.ranked(results, n_examples)[: self.population]
        return []

    @staticmethod
    def _rank(n_elite: int, rng: np.random.Generator) -> int:
        """Draw a place among the elite, the first as often as all lower ones together."""
        odds = 0.5 ** np.arange(n_elite)
        return int(rng.choice(n_elite, p=odds / odds.sum()))

    def _children(
        self, judge: Judge, elite: list[Tailoring], size: int, rng: np.random.Generator
    ) -> tuple[Tailoring, list[tuple[Tailoring, str]]]:
        """Draw a parent and its children; most are the model's favourites of a larger pool."""
        parent = elite[self._rank(len(elite), rng)]
        n_guided = int(rng.binomial(size, self.guided))
        model = self._model(judge) if n_guided and self.pool > 1 else None
        wanted = size if model is None else size + n_guided * (self.pool - 1)
        drawn: dict[Tailoring, str] = {}
        for _ in range(3 * wanted + _TRIES):
            if len(drawn) == wanted:
                break
            child = self._child(parent, elite, rng)
            if child is not None and not self._history.tried(child[0]):
                drawn.setdefault(*child)
        children = list(drawn)
        if model is not None and len(children) > size:
            blind, pool = children[: size - n_guided], children[size - n_guided :]
            children = blind + self._favourites(model, pool, n_guided, rng)
        return parent, [(child, drawn[child]) for child in children]

    def _model(self, judge: Judge) -> Surrogate | None:
        """Fit the model to the latest candidates, each with the most examples it was tried on."""
        losses = judge.proxy_losses(self._history.tailorings[-_MEMORY:])
        known = [tailoring for tailoring, loss in losses.items() if loss < np.inf]
        if len(known) < _FEWEST:
            return None
        n_examples = np.array([self._history.most_examples(tailoring) for tailoring in known])
        ours = np.array([losses[tailoring] for tailoring in known])
        n_layers = np.array([len(tailoring.layers) for tailoring in known])
        return fit(self._described(known), ours, n_examples, n_layers)

    def _described(self, tailorings: list[Tailoring]) -> NDArray[np.float64]:
        """One row a tailoring; each is described once, as long as it is among the latest."""
        new = [each for each in tailorings if each not in self._rows]
        rows = self._rows | dict(zip(new, describe(self.space, new), strict=True))
        self._rows = {each: rows[each] for each in tailorings}
        return np.stack(list(self._rows.values()))

    def _favourites(
        self, model: Surrogate, pool: list[Tailoring], n: int, rng: np.random.Generator
    ) -> list[Tailoring]:
        """Take the best of the pool `n` times, each time by other coefficients drawn."""
        features, left = describe(self.space, pool), list(range(len(pool)))
        chosen = []
        for _ in range(n):
            best = left[int(np.argmin(features[left] @ model.draw(rng)))]
            left.remove(best)
            chosen.append(pool[best])
        return chosen

    def _child(
        self, parent: Tailoring, elite: list[Tailoring], rng: np.random.Generator
    ) -> tuple[Tailoring, str] | None:
        if len(elite) > 1 and rng.random() < self.crossover_rate:
            others = [other for other in elite if other != parent]
            other = others[rng.integers(len(others))]
            mixed = crossover(self.space, parent, other, rng)
            return None if mixed is None else (mixed, "crossover")
        n_changes = 1 + int(rng.poisson(self.mutation_rate - 1.0))
        rates = {
            "swap": self.swap_rate,
            "source": self.source_rate,
            "everywhere": self.source_rate / 10,
            "merge": self.merge_rate,
            "giver": self.giver_rate,
        }
        return mutate(
            self.space, parent, rng, rates=rates, n_changes=n_changes, late=self.share_prefix
        )
