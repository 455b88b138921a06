"""Metrics: which way is better, and how the examples' numbers add up to one.

Every metric is a weighted mean over examples of one number each, put through `Metric.transform`;
so a subset, a group and a bootstrap sample are all computed by `aggregate`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gptailor.core.plugins import Registry
from gptailor.errors import ConfigError, unknown

__all__ = [
    "METRICS",
    "WRITTEN",
    "Metric",
    "MetricRegistry",
    "ScoredExample",
    "ScoredText",
    "aggregate",
]

Unit = Literal["example", "token", "word", "byte"]
WRITTEN = ("exact_match", "em", "f1", "acc")  # metrics of text that a model writes


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A choice, a continuation or a whole text, and its score by a model."""

    logprob: float  # log-likelihood of the text after its context, nats, summed over its tokens
    greedy: bool  # whether every token was the model's likeliest
    n_tokens: int  # that were scored
    n_characters: int
    n_words: int  # separated by white space
    n_bytes: int  # in UTF-8


@dataclass(frozen=True, slots=True)
class ScoredExample:
    """One example and a model's answer to it: the argument of `Metric.measure`."""

    output_type: str  # `multiple_choice`, `loglikelihood` or `loglikelihood_rolling`
    texts: tuple[ScoredText, ...]  # the choices in the task's order; else one text
    gold: tuple[int, ...]  # indices of the gold answers in `texts`; (0,) where there is one text


@dataclass(frozen=True, slots=True)
class Metric:
    """The facts of one metric, and for a plug-in the function that measures an example."""

    higher_is_better: bool
    meaning: str  # one line for people, with the unit
    transform: Literal["identity", "exp"] = "identity"  # applied to the weighted mean
    proxy: str | None = None  # the continuous metric that ranks candidates on few examples
    relative: bool = True  # losses are relative to the base's score; else they are differences
    # what an example's number is a mean over; its weight is how many its gold answer (or text) has
    unit: Unit = "example"
    # a model's answer to one example -> a finite number; None for the metrics built in
    measure: Callable[[ScoredExample], float] | None = None


class MetricRegistry:
    """Metrics by name: built in, plug-ins, and those of a record that is being read.

    A metric of written text may name lm-eval's filter of the text: ``exact_match,strict-match``.

    A plug-in is an entry point of group ``gptailor.metrics``, or ``module:attribute``, which only
    `load` imports. Reading a record imports nothing: the record has the facts that are needed.
    """

    def __init__(self, builtin: Mapping[str, Metric]) -> None:
        self.builtin = dict(builtin)
        self._plugins = Registry("metric", {}, group="gptailor.metrics")
        self._known = dict(builtin)  # and the plug-ins that were loaded or added
        self._recorded: dict[str, Metric] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Metrics that can be measured here: built in, loaded, and entry points."""
        return tuple(dict.fromkeys((*self._known, *self._plugins.names)))

    def __contains__(self, name: object) -> bool:
        return name in self.names or name in self._recorded or self._filtered(str(name)) is not None

    def __getitem__(self, name: str) -> Metric:
        known = self._known.get(name) or self._filtered(name) or self._recorded.get(name)
        return known or self._plugin(name, self._plugins.get(name))

    def _filtered(self, name: str) -> Metric | None:
        """The metric of text that a filter was applied to, ``metric,filter``."""
        metric, comma, filtered = name.partition(",")
        return self.builtin.get(metric) if comma and filtered and metric in WRITTEN else None

    def load(self, name: str) -> Metric:
        """Return a metric together with its `measure`, where it is a plug-in.

        Raises:
            ConfigError: There is no such metric or proxy, its module can't be imported, or it is
                no `Metric` that measures.
        """
        known = self._known.get(name) or self._filtered(name)
        if known is not None:
            return known
        if ":" not in name and name not in self._plugins:
            raise ConfigError(unknown("metric", name, self.names))
        return self._plugin(name, self._plugins.load(name))

    def add(self, name: str, metric: Metric) -> None:
        """Make a metric known in this process, by a name of your own.

        Raises:
            ConfigError: A built-in metric has the name, the metric has no `measure`, or there is
                no such proxy.
        """
        if name in self.builtin:
            raise ConfigError(f"metric {name!r} is built in; use another name")
        self._plugin(name, metric)

    def _plugin(self, name: str, metric: Any) -> Metric:
        if not isinstance(metric, Metric) or metric.measure is None:
            raise ConfigError(f"metric {name!r} must be a gptailor Metric with a measure function")
        if metric.proxy is not None:
            self.load(metric.proxy)
        self._known[name] = metric
        return metric

    def facts(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Name -> what a record keeps of a plug-in, so that it can be read without the plug-in.

        Raises:
            ConfigError: There is no such metric.
        """
        others = (name for name in names if name not in self.builtin)
        plugins = {name: self[name] for name in others if self._filtered(name) is None}
        return {
            name: {
                "higher_is_better": metric.higher_is_better,
                "meaning": metric.meaning,
                "transform": metric.transform,
            }
            for name, metric in plugins.items()
        }

    def remember(self, name: str, recorded: Metric) -> None:
        """Know a metric of a record by its facts, without the code that measures it.

        Raises:
            ConfigError: A metric of this name is known here, and works another way.
        """
        known = self._known.get(name) or self._filtered(name)
        known = known or self._recorded.setdefault(name, recorded)
        direction, transform = recorded.higher_is_better, recorded.transform
        if (known.higher_is_better, known.transform) != (direction, transform):
            raise ConfigError(
                f"the metric {name!r} of the record is not the one known here: which way is better "
                "or its transform differs; read the record where that metric is not loaded"
            )


METRICS = MetricRegistry(
    {
        "acc": Metric(True, "share of examples answered right", proxy="gold_bits_per_byte"),
        "acc_norm": Metric(
            True,
            "share answered right, choices compared by log-likelihood per character",
            proxy="gold_bits_per_byte",
        ),
        "exact_match": Metric(
            True, "share of examples whose written answer is right", proxy="gold_bits_per_byte"
        ),
        "em": Metric(
            True, "share of examples whose written answer is right", proxy="gold_bits_per_byte"
        ),
        "f1": Metric(
            True, "F1 of the words of the written and the gold answer", proxy="gold_bits_per_byte"
        ),
        "gold_bits_per_byte": Metric(False, "bits per byte of the gold answer", unit="byte"),
        "choice_logprob": Metric(
            True, "nats: log-probability of the gold answer among the choices"
        ),
        "bits_per_byte": Metric(False, "bits per byte of the text", unit="byte"),
        "byte_perplexity": Metric(
            False, "perplexity per byte of the text", transform="exp", unit="byte"
        ),
        "word_perplexity": Metric(
            False, "perplexity per word of the text", transform="exp", unit="word"
        ),
        "perplexity": Metric(False, "perplexity of the continuation", transform="exp"),
        "divergence": Metric(
            False, "nats per token: Kullback-Leibler divergence from a member", unit="token"
        ),
        "critical_divergence": Metric(
            False, "the same at digits, operators, brackets and sure tokens", unit="token"
        ),
        "flip_rate": Metric(
            False,
            "share of a member's own tokens that are not the likeliest",
            relative=False,
            unit="token",
        ),
        "critical_flip_rate": Metric(
            False,
            "the same at digits, operators, brackets and sure tokens",
            relative=False,
            unit="token",
        ),
        "repeated_4grams": Metric(False, "share of 4-grams that the text had before"),
        "loops": Metric(False, "share of texts that end in a loop"),
        "empty": Metric(False, "share of texts that are empty"),
        "unterminated": Metric(False, "share of texts that do not end in time"),
    }
)


def aggregate(
    metric: str, values: Sequence[float], weights: Sequence[float] | None = None
) -> float:
    """Turn one number per example into the metric's value.

    Args:
        metric: A name in `METRICS`.
        values: One number an example; nats per unit where the metric is a perplexity.
        weights: How much each example counts (bytes, words, 1 / size of its subtask); None: the
            same.

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
