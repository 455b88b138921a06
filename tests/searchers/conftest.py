"""A made-up landscape that searchers are tried on: shaped as real ones, and cheap."""

from collections.abc import Callable

import numpy as np
import pytest

from gptailor.core.objective import Goal, Objective
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Evaluation, Measurement, Proposal, Scores, Trial
from gptailor.searchers.searcher import Searcher
from gptailor.searchers.space import Space, kept_positions

VARIANTS = ("code", "math", "world")


class Landscape:
    """Tasks whose examples each feel every cut and every source in their own way.

    The bits an example costs are the sum of: the importance of each cut layer, as this example
    feels it; a penalty for cuts that are neighbours; what each layer's sources gain or spoil. It is
    answered right while its bits stay below its own limit. So accuracy is coarse, bits are fine,
    and near candidates differ less between examples than far ones: pairs tell more.
    """

    def __init__(self, n_layers: int = 30, n_tasks: int = 5, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.n_layers, self.n_tasks = n_layers, n_tasks
        place = np.arange(n_layers) / max(1, n_layers - 1)
        shape = 0.03 + 1.2 * np.exp(-18 * place) + 0.30 * (1 - place) ** 2 + 0.9 * (place > 0.97)
        self.importance = shape * rng.lognormal(0, 0.6, n_layers)
        self.pairs = 0.05 * rng.lognormal(0, 0.8, n_layers)
        focus = np.eye(n_tasks)[:, : len(VARIANTS)] * 0.03 - 0.006
        self.gains = focus[:, :, None] * rng.lognormal(0, 0.7, (n_tasks, len(VARIANTS), n_layers))
        self.gains += 0.004 * rng.standard_normal(self.gains.shape)
        n_examples = 1000
        self.bits = rng.lognormal(0, 0.4, (n_tasks, n_examples))
        self.limits = rng.gamma(2.0, 0.5, (n_tasks, n_examples)) - 0.1
        self.felt = rng.lognormal(0, 1.0, (n_tasks, n_examples, n_layers)) * (
            rng.lognormal(0, 0.5, (n_tasks, n_examples, 1))
        )
        self.felt /= self.felt.mean(axis=1, keepdims=True)
        self.liked = 1 + 2.0 * rng.standard_normal((n_tasks, n_examples, n_layers))
        self.n_evaluated = 0

    def space(self, n_removed: int = 7, variants: tuple[str, ...] = VARIANTS) -> Space:
        return Space(self.n_layers, n_removed, variants, ("task_arithmetic",), tied=True)

    def objective(self, n_examples: int) -> Objective:
        goals = [Goal(f"task{task}", "acc") for task in range(self.n_tasks)]
        return Objective(goals, self.scores(Tailoring.whole(BASE, self.n_layers), n_examples))

    def references(self, space: Space, n_examples: int) -> dict[str, Scores]:
        """Scores of the whole members."""
        wholes = {name: Tailoring.whole(name, self.n_layers) for name in space.members}
        return {name: self.scores(whole, n_examples) for name, whole in wholes.items()}

    def scores(self, tailoring: Tailoring, n_examples: int, start: int = 0) -> Scores:
        """Scores on some examples; those from 500 on are never searched."""
        part = slice(start, start + n_examples)
        rise = self._rise(tailoring, part)
        right = (rise < self.limits[:, part]).astype(float)
        bits = self.bits[:, part] + np.maximum(rise, -0.9 * self.bits[:, part])
        return Scores(
            {
                f"task{task}": {
                    "acc": Measurement("acc", tuple(right[task].tolist())),
                    "gold_bits_per_byte": Measurement(
                        "gold_bits_per_byte", tuple(bits[task].tolist())
                    ),
                }
                for task in range(self.n_tasks)
            }
        )

    def _rise(self, tailoring: Tailoring, part: slice) -> np.ndarray:
        kept = np.zeros(self.n_layers, dtype=bool)
        kept[list(kept_positions(tailoring))] = True
        taken = np.zeros((len(VARIANTS), self.n_layers))
        for spec in tailoring.layers:
            scale = dict(spec.params).get("scale", 1.0)
            for source in spec.sources:
                if source.member != BASE:
                    taken[VARIANTS.index(source.member), source.layer] = scale
        beside = ~kept & ~np.roll(kept, 1)
        beside[0] = False
        hurt = self.importance * ~kept + self.pairs * beside  # (L,)
        over = 0.01 * np.maximum(taken.sum(axis=0) - 1.0, 0) ** 2
        gain = np.einsum("tvl,vl->tl", self.gains, taken) - over
        felt = np.einsum("tel,l->te", self.felt[:, part], hurt)
        return felt - np.einsum("tel,tl->te", self.liked[:, part], gain)

    def true_loss(self, tailoring: Tailoring, *, proxy: bool = False) -> float:
        """The loss on 500 examples a task that no search sees."""
        goals = [Goal(f"task{task}", "acc") for task in range(self.n_tasks)]
        whole = Tailoring.whole(BASE, self.n_layers)
        objective = Objective(goals, self.scores(whole, 500, start=500))
        return objective.scalar(self.scores(tailoring, 500, start=500), proxy=proxy)

    def run(
        self, searcher: Searcher, fails: Callable[[Proposal], bool] | None = None
    ) -> list[Trial]:
        """Drive a searcher until it has nothing to ask."""
        trials: list[Trial] = []
        while group := searcher.ask():
            told = []
            for proposal in group:
                number = len(trials) + len(told)
                if fails is not None and fails(proposal):
                    told.append(Trial(number, proposal, Evaluation(failure="out of memory")))
                    continue
                scores = self.scores(proposal.tailoring, proposal.n_examples)
                told.append(Trial(number, proposal, Evaluation(scores)))
            trials += told
            searcher.tell(told)
        return trials


@pytest.fixture(scope="session")
def landscapes() -> list[Landscape]:
    """Four landscapes; every one has its own layers that matter."""
    return [Landscape(seed=seed) for seed in range(4)]
