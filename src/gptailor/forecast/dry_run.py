"""A study without models: made-up scores that behave like real ones, and the work counted.

Searchers are pure, so one that is told made-up scores asks much as it would of real ones. What
that would cost is counted through the same pool, prefix trie and nested rungs as the real thing.
Runs no layer; knows nothing of speed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from gptailor.app.assemble import Assembly
from gptailor.core.lru import LruCache
from gptailor.core.metrics import METRICS
from gptailor.core.objective import Objective
from gptailor.core.prefix_trie import Node, prefix_trie
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.core.trial import Evaluation, Job, Measurement, Scores, Trial
from gptailor.engine.token_tree import TokenTree
from gptailor.record.ranking import ranked
from gptailor.searchers.space import Space
from gptailor.searchers.surrogate import describe
from gptailor.tasks.task import Passage, Task
from gptailor.workers.grouping import divided
from gptailor.workers.local import LocalPool

__all__ = ["Rehearsal", "Step", "Work", "rehearse", "work_of"]

Floats = NDArray[np.float64]

# Losses are shares of the base's score, of a size as on SmolLM2-135M and bits of answers.
_CUT = 0.1  # of cutting one layer in the middle
_UNEVEN = 0.6  # how much layers differ there: standard deviation of the loss's logarithm
_SPREAD = 1.5  # standard deviation over examples, in units of the mean
_OWN = 0.02  # what does not add up: a candidate's own part
_HARD = 1.28  # three quarters of a gamma(4, 1/4) lie below: what the base answers right
_FACTORS = 16  # independent ways in which examples differ


@dataclass(frozen=True, slots=True)
class Work:
    """What evaluations cost, in units whose speed can be measured.

    Args:
        layer_tokens: Tokens times layers run, after all sharing.
        n_runs: Layers run on a group of examples, however many; it has a cost of its own.
        input_tokens: Tokens embedded, once a group and embedding.
        target_tokens: Positions at which tokens are predicted, once a candidate.
        n_merged: Merged layers made.
    """

    layer_tokens: int = 0
    n_runs: int = 0
    input_tokens: int = 0
    target_tokens: int = 0
    n_merged: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Step:
    """What is evaluated between two decisions.

    Args:
        phase: ``references``, ``search``, ``choose`` or ``report``.
        tailorings: One an evaluation.
        scores: Made up, one an evaluation; empty but on the search split.
        work: What they cost.
        alone: Layer-tokens without any sharing.
        asking: Seconds that the searcher took to ask for it.
        groups: What each group costs, where several workers run them at one time.
    """

    phase: str
    tailorings: tuple[Tailoring, ...]
    scores: tuple[Scores | None, ...]
    work: Work
    alone: int
    asking: float = 0.0
    groups: tuple[Work, ...] = ()


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a study would do.

    Args:
        steps: In order.
        merged_bytes: Most bytes of merged layers kept at one time, by one worker.
        n_states: Most hidden states of one batch kept at one time.
        n_numbers: Numbers in the scores of all evaluations.
    """

    steps: tuple[Step, ...]
    merged_bytes: int
    n_states: int
    n_numbers: int


def rehearse(assembly: Assembly, n_workers: int = 1) -> Rehearsal:
    """Go through a whole study: references, search, choice and report.

    Args:
        assembly: Everything put together.
        n_workers: How many run groups at one time, each with merged layers of its own.
    """
    plan, stage = assembly.plan, _Stage(assembly, n_workers)
    wholes = [Tailoring.whole(member, plan.n_layers) for member in plan.members]
    told = stage.run("references", [Job(whole, plan.rungs[-1]) for whole in wholes])
    reference = told[plan.members.index(BASE)].scores
    assert reference is not None, "made-up scores never fail"
    objective = Objective(plan.goals, reference)
    trials = _search(assembly, objective, stage)
    n_examples = plan.sizes["selection"]
    best = ranked(trials, objective, plan.n_layers - plan.n_removed)
    finalists = list(dict.fromkeys(trial.tailoring for trial in best))[: plan.finalists]
    stage.run("selection", [Job(Tailoring.whole(BASE, plan.n_layers), n_examples, "selection")])
    stage.run("selection", [Job(each, n_examples, "selection") for each in finalists])
    n_examples = plan.sizes["test"]
    stage.run("test", [Job(each, n_examples, "test") for each in [*wholes, *finalists[:1]]])
    scorer = stage.scorer
    return Rehearsal(tuple(stage.steps), scorer.merged_bytes, scorer.n_states, scorer.n_numbers)


def work_of(assembly: Assembly, jobs: Sequence[Job]) -> Work:
    """Count what jobs cost when they are evaluated together, and nothing was before them."""
    scorer = _Scorer(assembly)
    scorer.evaluate(jobs)
    return scorer.work


def _search(assembly: Assembly, objective: Objective, stage: "_Stage") -> list[Trial]:
    """Ask and tell until the searcher has nothing left to ask."""
    searcher = assembly.searcher(objective)
    known: dict[Tailoring, Scores] = {}
    trials: list[Trial] = []
    while True:
        started = time.perf_counter()
        proposals = searcher.ask()
        asking = time.perf_counter() - started
        if not proposals:
            return trials
        jobs = [Job.of(proposal, known.get(proposal.tailoring)) for proposal in proposals]
        for proposal, done in zip(proposals, stage.run("search", jobs, asking), strict=True):
            assert done.scores is not None, "made-up scores never fail"
            trials.append(Trial(len(trials), proposal, done))
            before = known.get(proposal.tailoring)
            if before is None or before.n_examples < done.scores.n_examples:
                known[proposal.tailoring] = done.scores
        searcher.tell(trials[-len(proposals) :])


class _Stage:
    """Runs jobs through the configured groups and notes what each step cost."""

    def __init__(self, assembly: Assembly, n_workers: int) -> None:
        self.scorer = _Scorer(assembly, n_workers)
        self.steps: list[Step] = []
        self._n_workers = n_workers
        options = assembly.config.workers.options
        self._groups = {"group_size": options["group_size"]} if "group_size" in options else {}

    def run(self, phase: str, jobs: Sequence[Job], asking: float = 0.0) -> list[Evaluation]:
        self.scorer.work, self.scorer.alone = Work(), 0
        groups: tuple[Work, ...] = ()
        if self._n_workers == 1:
            done = list(LocalPool(self.scorer, **self._groups).evaluate(jobs))
        else:
            done, groups = self._spread(jobs)
        tailorings = tuple(job.tailoring for job in jobs)
        scores = tuple(each.scores for each in done)
        work, alone = self.scorer.work, self.scorer.alone
        self.steps.append(Step(phase, tailorings, scores, work, alone, asking, groups))
        return done

    def _spread(self, jobs: Sequence[Job]) -> tuple[list[Evaluation], tuple[Work, ...]]:
        """Run groups as workers would, and note what each of them cost."""
        works, total = [], Work()
        for number, indices in enumerate(divided(jobs, self._n_workers, **self._groups)):
            self.scorer.work, self.scorer.worker = Work(), number % self._n_workers
            self.scorer.count([jobs[index] for index in indices])
            works.append(self.scorer.work)
            total += self.scorer.work
        self.scorer.work = total
        return self.scorer.imagined(jobs), tuple(works)


class _Scorer:
    """Counts what the engine would run, and makes scores up."""

    def __init__(self, assembly: Assembly, n_workers: int = 1) -> None:
        self._evaluator, family = assembly.evaluator, assembly.family
        self._parts = {
            split: [getattr(parts, split) for parts in assembly.tasks.values()]
            for split in ("search", "selection", "test")
        }
        searched = zip(assembly.tasks, self._parts["search"], strict=True)
        self._world = _World(assembly.space, dict(searched))
        self._targets: dict[str, NDArray[np.int64]] = {}
        self._sizes = [n * family.dtype.itemsize for n in family.layer_parameters]
        cache_bytes = assembly.config.engine.cache_bytes
        self._kept = [LruCache[bool](cache_bytes) for _ in range(n_workers)]
        self.worker = 0
        self.work, self.alone = Work(), 0
        self.merged_bytes = self.n_states = self.n_numbers = 0

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Count the work, and make scores up."""
        self.count(jobs)
        return self.imagined(jobs)

    def imagined(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Make scores up, on the search split alone; in order, for chance is drawn from once."""
        return [Evaluation(self._scores(job), None, 0.0, 0) for job in jobs]

    def count(self, jobs: Sequence[Job]) -> None:
        """Add what jobs cost that are evaluated together."""
        groups: dict[tuple[str, int, int], list[Tailoring]] = {}
        for job in jobs:
            groups.setdefault((job.split, job.n_known, job.n_examples), []).append(job.tailoring)
        for (split, known, n_examples), tailorings in groups.items():
            for low, high in self._evaluator.pieces(split, known, n_examples):
                self._count(split, low, high, tailorings)

    def _count(self, split: str, low: int, high: int, tailorings: Sequence[Tailoring]) -> None:
        tokens = self._evaluator.tokens(split, low, high)
        roots = prefix_trie(tailorings)
        pending, n_layers, n_merged = list(reversed(roots)), 0, 0
        while pending:  # in the engine's own order: what was merged last is kept
            node = pending.pop()
            pending += reversed(node.children.values())
            n_layers += len(node.children)
            if node.spec.method is not None:
                n_merged += self._made(node.spec)
        self.n_states = max(self.n_states, *(_n_states(root) for root in roots))
        targets = self._n_targets(split, low, high) * len(tailorings)
        self.work += Work(tokens * n_layers, n_layers, tokens * len(roots), targets, n_merged)
        self.alone += tokens * sum(len(tailoring.layers) for tailoring in tailorings)

    def _made(self, spec: LayerSpec) -> bool:
        """Note that a merged layer is needed; whether it has to be made."""
        kept = self._kept[self.worker]
        if kept.get(spec) is not None:
            return False
        kept.keep(spec, True, self._sizes[spec.position])
        self.merged_bytes = max(self.merged_bytes, kept.n_bytes)
        return True

    def _n_targets(self, split: str, low: int, high: int) -> int:
        """Places at which something is predicted in the examples from `low` to `high`."""
        if split not in self._targets:
            tasks = self._parts[split]
            counts = np.zeros(1 + max(task.n_examples for task in tasks), np.int64)
            for task in tasks:
                for example in range(task.n_examples):
                    counts[example + 1] += sum(map(_n_predicting, task.passages(example)))
            self._targets[split] = counts.cumsum()
        ends = np.minimum((low, high), len(self._targets[split]) - 1)
        first, last = self._targets[split][ends]
        return int(last - first)

    def _scores(self, job: Job) -> Scores:
        counts = [
            min(job.n_examples, task.n_examples) * len(task.metrics)
            for task in self._parts[job.split]
        ]
        self.n_numbers += sum(counts)
        return self._world.scores(job) if job.split == "search" else Scores()


class _World:
    """What scores would be if losses were sums over layers.

    A candidate's loss on an example is the sum of what its cuts, neighbours cut, layers taken and
    merges cost there, so that candidates that are alike score alike, example by example.
    """

    def __init__(self, space: Space, tasks: Mapping[str, Task]) -> None:
        self._space, self._tasks = space, tasks
        self._rng = np.random.default_rng(0)
        self._rows: dict[Tailoring, Floats] = {}
        importance = _importance(space.n_layers)
        n_features = describe(space, [space.uniform(())]).shape[1]
        mean: Floats = self._rng.standard_normal((n_features,))
        mean[: space.n_layers] = importance * self._rng.lognormal(0.0, _UNEVEN, space.n_layers)
        self._mean = _CUT * mean
        spread: Floats = _CUT * _SPREAD * self._rng.standard_normal((n_features, _FACTORS))
        spread[: space.n_layers] *= mean[: space.n_layers, None]
        self._spread = spread / _FACTORS**0.5
        self._examples = {
            name: (
                self._rng.standard_normal((_FACTORS, task.n_examples)),
                self._rng.gamma(4.0, 0.25, task.n_examples),  # how hard: mean 1
            )
            for name, task in tasks.items()
        }

    def scores(self, job: Job) -> Scores:
        """Scores on the first examples: those of fewer are the first of those of more."""
        if job.tailoring not in self._rows:
            (row,) = describe(self._space, [job.tailoring])
            own = _OWN * self._rng.standard_normal() * bool(row.any())
            self._rows[job.tailoring] = np.array([row @ self._mean + own, *(row @ self._spread)])
        level, *factors = self._rows[job.tailoring]
        made = {}
        for name, task in self._tasks.items():
            n = min(job.n_examples, task.n_examples)
            differing, hard = self._examples[name]
            losses = level + np.array(factors) @ differing[:, :n]
            made[name] = {
                metric: Measurement(
                    metric, _values(metric, losses, hard[:n]), task.weights(metric, n)
                )
                for metric in task.metrics
            }
        return Scores(made)


def _values(metric: str, losses: Floats, hard: Floats) -> tuple[float, ...]:
    """Numbers of one metric: right or wrong, or bits and nats around 1."""
    if metric in ("acc", "acc_norm"):
        right = hard + losses < _HARD
        return tuple(right.astype(float).tolist())
    numbers = np.maximum(hard + losses, 0.01)
    return tuple((-numbers if METRICS[metric].higher_is_better else numbers).tolist())


def _importance(n_layers: int) -> Floats:
    """What cutting each layer costs, relative to the middle: first and last most, late least."""
    depth = np.linspace(0.0, 1.0, n_layers)
    ends = 20.0 * np.exp(-depth / 0.04) + 5.0 * np.exp((depth - 1) / 0.03)
    falling: Floats = 1.25 - 0.5 * depth + ends
    return falling


def _n_states(node: Node) -> int:
    """Hidden states that a walk below a node needs at one time, the node's own among them."""
    children = list(node.children.values())
    return max((_n_states(child) + (child is not children[-1]) for child in children), default=1)


def _n_predicting(passage: Passage) -> int:
    """Places of a passage at which something is predicted; continuations share beginnings."""
    tree = TokenTree()
    for continuation in passage.continuations:
        tree.add(continuation[:-1])
    return 1 + len(tree)
