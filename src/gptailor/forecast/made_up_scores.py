"""Made-up scores for a dry run: a candidate's loss is a sum over its layers, plus noise."""

from collections.abc import Mapping

import numpy as np

from gptailor.core.metrics import METRICS
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.core.trial import GUARD, Job, Measurement, Scores
from gptailor.tasks.task import Task

__all__ = ["MadeUpScores"]

# Losses are shares of the base's score; sizes as on SmolLM2-135M.
_CUT = 0.1  # of cutting one layer in the middle
_UNEVEN = 0.6  # standard deviation over layers of the logarithm of that
_SOURCE = 0.01  # standard deviation of a layer that is not the base's own
_RIGHT = 1.28  # the base answers an example right below this: three quarters of gamma(4, 1/4)


class MadeUpScores:
    """Draws scores that behave like real ones: the first layers cost most to cut, late ones least.

    Independent random scores are worse: docs/decisions/0022.
    """

    def __init__(self, tasks: Mapping[str, Mapping[str, Task]], n_layers: int) -> None:
        self.n_numbers = 0  # in all scores so far
        self._tasks, self._rng = tasks, np.random.default_rng(0)
        depth = np.linspace(0.0, 1.0, n_layers)
        ends = 20.0 * np.exp(-depth / 0.04) + 5.0 * np.exp((depth - 1.0) / 0.03)
        uneven = self._rng.lognormal(0.0, _UNEVEN, n_layers)
        self._cuts = _CUT * (1.25 - 0.5 * depth + ends) * uneven
        self._sources: dict[LayerSpec, float] = {}  # loss of each layer that is not the base's own

    def scores(self, job: Job) -> Scores:
        """Scores of a job: the known ones, and new ones for the other examples."""
        # a guard that passed candidates over would look at more of them
        loss = 0.0 if job.split == GUARD else self._loss(job.tailoring)
        tasks: dict[str, dict[str, Measurement]] = {}
        for name, task in self._tasks[job.split].items():
            n, known = min(job.n_examples, task.n_examples), job.known
            tasks[name] = {}
            for metric in task.metrics:
                before = () if known is None else known.tasks[name][metric].values
                values = (*before, *self._drawn(metric, loss, n - len(before)))
                self.n_numbers += n
                tasks[name][metric] = Measurement(metric, values, task.weights(metric, n))
        return Scores(tasks)

    def _loss(self, tailoring: Tailoring) -> float:
        """Mean loss of a candidate: the sum of what its cuts and its foreign layers cost."""
        kept = [spec.position for spec in tailoring.layers]
        loss = float(np.delete(self._cuts, kept).sum())
        for spec in tailoring.layers:
            if any(source.member != BASE for source in spec.sources):
                if spec not in self._sources:
                    self._sources[spec] = _SOURCE * self._rng.standard_normal()
                loss += self._sources[spec]
        return loss

    def _drawn(self, metric: str, loss: float, n: int) -> list[float]:
        """One number an example: right or wrong, or a positive loss of mean 1 for the base."""
        losses = np.maximum(loss + self._rng.gamma(4.0, 0.25, n), 0.01)
        if metric.partition(",")[0] in ("acc", "acc_norm", "exact_match", "em"):
            losses = losses < _RIGHT
        elif METRICS[metric].higher_is_better:
            losses = -losses
        return [float(number) for number in losses]
