"""What a search will cost, before it is begun: trials, tokens, memory, time.

The searcher is a pure function of its history, so it is run dry: every proposal gets made-up
scores, and what it would have cost is counted through the same prefix trie and the same nested
rungs as the engine's. The speed is measured on this machine, on the base and the first examples.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gptailor.assemble import Assembly
from gptailor.engine.prefix import prefix_trie
from gptailor.objective import Objective
from gptailor.tailoring import BASE, Tailoring
from gptailor.tasks.task import Task
from gptailor.trial import Job, Measurement, Scores, Trial

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True, slots=True)
class Forecast:
    """The cost of a study.

    Args:
        n_trials: Evaluations.
        n_candidates: Distinct tailorings among them.
        layer_tokens: Tokens times layers to be run, after all sharing; members, choice and report
            included.
        shared: Share of the search's layer-tokens that prefixes and nested rungs save.
        seconds: Wall-clock time at the speed measured here.
        family_bytes: Memory of the members' weights.
        merged_bytes: Most memory of merged layers.
    """

    n_trials: int
    n_candidates: int
    layer_tokens: int
    shared: float
    seconds: float
    family_bytes: int
    merged_bytes: int


def forecast(assembly: Assembly) -> Forecast:
    """Run the searcher dry, measure the speed, and add up."""
    plan, family = assembly.plan, assembly.family
    dry = _Dry(assembly)
    dry.run()
    whole = len(plan.members) * family.n_layers
    rest = whole * assembly.evaluator.tokens("search", 0, plan.rungs[-1])
    n_kept = plan.n_layers - plan.n_removed
    finalists = plan.finalists * n_kept + family.n_layers
    rest += finalists * assembly.evaluator.tokens("choose", 0, plan.sizes["choose"])
    rest += (whole + n_kept) * assembly.evaluator.tokens("report", 0, plan.sizes["report"])
    layer_bytes = max(family.layer_parameters) * family.dtype.itemsize
    room = assembly.config.engine.cache_bytes
    return Forecast(
        n_trials=dry.n_trials,
        n_candidates=len(dry.known),
        layer_tokens=dry.layer_tokens + rest,
        shared=1 - dry.layer_tokens / max(dry.alone, 1),
        seconds=(dry.layer_tokens + rest) * _seconds_per_layer_token(assembly),
        family_bytes=family.nbytes,
        merged_bytes=min(room, len(dry.merged) * layer_bytes),
    )


class _Dry:
    """Counts what a searcher asks for."""

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._rng = np.random.default_rng(0)
        self.known: dict[Tailoring, Scores] = {}
        self.merged: set[str] = set()
        self.n_trials = self.layer_tokens = self.alone = 0

    def run(self) -> None:
        """Ask and tell until the searcher has nothing left to ask."""
        plan = self._assembly.plan
        objective = Objective(plan.goals, self._scores(plan.rungs[-1], None))
        searcher = self._assembly.searcher(objective)
        while proposals := searcher.ask():
            groups: dict[tuple[int, int], list[Tailoring]] = {}
            trials = []
            for proposal in proposals:
                known = self.known.get(proposal.tailoring)
                n_known = 0 if known is None else known.n_examples
                groups.setdefault((n_known, proposal.n_examples), []).append(proposal.tailoring)
                scores = self._scores(proposal.n_examples, known)
                self.known[proposal.tailoring] = scores
                trials.append(Trial(self.n_trials, proposal, scores=scores))
                self.n_trials += 1
            for (low, high), tailorings in groups.items():
                self._count(low, high, tailorings)
            searcher.tell(trials)

    def _count(self, low: int, high: int, tailorings: list[Tailoring]) -> None:
        evaluator = self._assembly.evaluator
        tokens = evaluator.tokens("search", low, high)
        pending = prefix_trie(tailorings)
        while pending:
            node = pending.pop()
            pending += node.children.values()
            self.layer_tokens += tokens * len(node.children)
        alone = evaluator.tokens("search", 0, high)
        self.alone += alone * sum(len(tailoring.layers) for tailoring in tailorings)
        for tailoring in tailorings:
            self.merged |= {str(spec) for spec in tailoring.layers if spec.method is not None}

    def _scores(self, n_examples: int, known: Scores | None) -> Scores:
        """Made-up scores; those of fewer examples are kept."""
        made: dict[str, Mapping[str, Measurement]] = {}
        for name, parts in self._assembly.tasks.items():
            task: Task = parts.search
            n = min(n_examples, task.n_examples)
            made[name] = {}
            for metric in task.metrics:
                before = () if known is None else known.tasks[name][metric].values
                new = tuple(self._rng.random(n - len(before)).tolist())
                made[name] = {
                    **made[name],
                    metric: Measurement(metric, before + new, task.weights(metric, n)),
                }
        return Scores(made)


def _seconds_per_layer_token(assembly: Assembly) -> float:
    """Best of two: the base, whole, on the first examples."""
    job = Job(Tailoring.whole(BASE, assembly.plan.n_layers), assembly.plan.rungs[0])
    best = float("inf")
    for _ in range(2):
        started = time.perf_counter()
        done = assembly.evaluator.evaluate([job])[0]
        best = min(best, (time.perf_counter() - started) / max(done.layer_tokens, 1))
    return best
