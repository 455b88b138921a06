"""The metrics: which way is better, and how examples add up to one number.

Every metric is a weighted mean over examples of one number each, put through `Metric.transform`;
so a subset, a group and a bootstrap sample are all computed by `aggregate`. Knows nothing of
models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "Metric", "aggregate"]


@dataclass(frozen=True, slots=True)
class Metric:
    """The facts of one metric.

    Args:
        name: The name in configs and records; lm-eval's own where lm-eval has it.
        higher_is_better: Which way is better.
        meaning: One line for people, with the unit.
        transform: What is done to the weighted mean: nothing, or ``exp``.
        proxy: The continuous metric that ranks candidates on few examples; itself if None.
    """

    name: str
    higher_is_better: bool
    meaning: str
    transform: Literal["identity", "exp"] = "identity"
    proxy: str | None = None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("acc", True, "share of examples answered right", proxy="gold_bits_per_byte"),
        Metric(
            "acc_norm",
            True,
            "share answered right, choices compared by log-likelihood per character",
            proxy="gold_bits_per_byte",
        ),
        Metric("gold_bits_per_byte", False, "bits per byte of the right answer"),
        Metric("choice_logprob", True, "nats: log-probability of the right among the choices"),
        Metric("bits_per_byte", False, "bits per byte of the text"),
        Metric("byte_perplexity", False, "perplexity per byte of the text", transform="exp"),
        Metric("word_perplexity", False, "perplexity per word of the text", transform="exp"),
        Metric("perplexity", False, "perplexity of the continuation", transform="exp"),
        Metric("divergence", False, "nats per token: Kullback-Leibler divergence from a member"),
    )
}


def aggregate(
    metric: str, values: Sequence[float], weights: Sequence[float] | None = None
) -> float:
    """Turn one number per example into the metric's value.

    Args:
        metric: A name in `METRICS`.
        values: One number an example; nats per unit where the metric is a perplexity.
        weights: How much each example counts (bytes, words, 1 / size of its part); None: the same.

    Example:
        >>> aggregate("acc", [1.0, 0.0, 1.0, 1.0])
        0.75
    """
    if weights is None:
        mean = math.fsum(values) / len(values)
    else:
        total = math.fsum(weights)
        mean = math.fsum(v * w for v, w in zip(values, weights, strict=True)) / total
    if METRICS[metric].transform == "exp":
        return math.exp(mean) if mean < 700 else math.inf
    return mean
