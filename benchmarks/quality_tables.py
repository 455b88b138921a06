"""The tables of `quality.py`: arms, the claims about them, quality against layer-tokens.

Every interval is of a paired bootstrap over dev examples and over the seeds of each arm.
"""

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from common import table
from quality_kept import Judged

import gptailor as gt
from gptailor.core.statistics import Estimate, Floats, above_chance, estimate, gaps, samples
from gptailor.core.trial import Measurement
from gptailor.report.svg import Axes, Scale, path, picture, tag, text

__all__ = ["Point", "Quality", "bits_of", "drawn_curves"]

OURS, REPAIRED = "evolution-all", "evolution-all+refit"
RIVALS = ("random", "greedy@base", "greedy@best", "smac", "optuna")
N_RESAMPLES = 2000
Point = dict[str, Any]  # the best candidate at one moment of a search, by the keys of the JSON
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000", "#999")


class Quality:
    """The judged arms and what can be said of them.

    Args:
        arms: Name to the results of its seeds; whole members are among them.
        best: The arm that is the best whole member.
        chances: Task to the chances of its dev examples; none where there is no choice.
        smac: Arm to the layer-tokens after which it was as good as smac in the end, for each seed
            two shares: of all that smac took, and of what it took until it was so good.
    """

    def __init__(
        self,
        arms: Mapping[str, Sequence[Judged]],
        best: str,
        chances: Mapping[str, Sequence[float]],
        smac: Mapping[str, Sequence[tuple[float, float]]],
    ) -> None:
        self.arms, self.best, self.chances, self.smac = arms, best, chances, smac
        self._acc = {name: self._means(name, "acc_norm") for name in arms}
        self._over_chance = {name: self._means(name, "acc_norm", guess=True) for name in arms}
        self._bits = {name: self._means(name, "bits") for name in arms}

    def _means(self, arm: str, measure: str, *, guess: bool = False) -> Floats:
        """The mean over seeds and tasks, and the same of examples and seeds drawn anew.

        Examples are drawn alike for all arms, seeds for each arm on their own.
        """
        by_task = []
        for task in self.chances:
            measured = [_measured(scores, task, measure) for _, scores in self.arms[arm]]
            if guess:
                measured = [m and above_chance(m, self.chances[task]) for m in measured]
            known = [m for m in measured if m is not None]
            if known:
                rng = np.random.default_rng(zlib.crc32(task.encode()))
                by_task.append(np.stack(samples(known, N_RESAMPLES, rng), axis=1))
        means = np.mean(by_task, axis=0)  # (1 + n_resamples, n_seeds)
        rng = np.random.default_rng(zlib.crc32(arm.encode()))
        drawn = rng.integers(means.shape[1], size=means.shape)
        drawn[0] = np.arange(means.shape[1])
        found: Floats = np.take_along_axis(means, drawn, axis=1).mean(axis=1)
        return found

    def row(self, arm: str) -> dict[str, Any]:
        """Everything about an arm, for the JSON."""
        found, scores = zip(*self.arms[arm], strict=True)
        best = self.best
        over, above = self._over_chance, None
        if estimate(over[best]).low > 0:  # else there is nothing to keep a share of
            above = _plain(estimate(over[arm] / over[best]))
        return {
            "arm": arm,
            "seeds": [one.seed for one in found],
            "acc_norm": _plain(estimate(self._acc[arm])),
            "of_best": _plain(estimate(self._acc[arm] / self._acc[best])),
            "of_best_above_chance": above,
            "bits": _plain(estimate(self._bits[arm])),
            "tasks": {
                task: {
                    metric: float(np.mean([one.value(task, metric) for one in scores]))
                    for metric in scores[0].tasks[task]
                }
                for task in self.chances
            },
            "layer_tokens": [one.layer_tokens for one in found],
            "seconds": [round(one.seconds, 1) for one in found],
            "candidates": [one.n_candidates for one in found],
        }

    def claims(self) -> Iterator[dict[str, Any]]:
        """What is to come out, each with its interval and whether it did."""
        names = dict.fromkeys(name.removesuffix("+refit") for name in self.arms)
        baselines = [
            f"{name}+refit" if f"{name}+refit" in self.arms else name
            for name in names
            if name.endswith("@best") and name not in (*RIVALS, "evolution-cut@best")
        ]
        pairs = [(REPAIRED, each, "better") for each in (*baselines, OURS, *RIVALS)]
        pairs += [(OURS, each, "better") for each in RIVALS]
        pairs.append((REPAIRED, f"{REPAIRED}, unrepaired", "better"))
        wanted = "not shown to be worse" if all(self.chances.values()) else "better"
        for end in ("", "+refit"):
            for cut in ("scores", "cut@best", "cut@base", "select"):
                pairs.append((OURS + end, f"evolution-{cut}{end}", wanted))
        for ours, theirs, target in pairs:
            if ours in self.arms and theirs in self.arms:
                for measure, means in (("acc_norm", self._acc), ("bits", self._bits)):
                    gap = estimate(gaps(means[ours], means[theirs]))
                    ends = (gap.low, gap.high) if measure == "acc_norm" else (-gap.high, -gap.low)
                    met = ends[0] > 0 if target == "better" else ends[1] >= 0
                    yield _claim(f"{ours} less {theirs}", measure, gap, target, met)
        if REPAIRED in self.arms:
            kept = estimate(self._acc[REPAIRED] / self._acc[self.best])
            claim = f"{REPAIRED}, share of the best member"
            yield _claim(claim, "acc_norm", kept, "at least 0.95", kept.value >= 0.95)
        whole = self._bits[self.best]
        repaired = [each for each in self.arms if each.endswith("+refit") and "@base" not in each]
        masks = {each: each.removesuffix("+refit") for each in repaired}
        # of a search the same mask, not that of a search without repair
        masks |= {each: own for each in repaired if (own := f"{each}, unrepaired") in self.arms}
        for ours, theirs in [pair for pair in masks.items() if pair[1] in self.arms]:
            lost = estimate((self._bits[ours] - whole) / (self._bits[theirs] - whole))
            claim = f"{ours}: loss as a share of that of the same mask without repair"
            yield _claim(claim, "bits", lost, "at most 0.5", lost.value <= 0.5)
        for arm in (OURS, REPAIRED):
            until = "its last trial", "it was so good"
            for end, shares in zip(until, zip(*self.smac.get(arm, ()), strict=True), strict=False):
                share = Estimate(float(np.mean(shares)), min(shares), max(shares))
                claim = f"{arm}: layer-tokens to smac's result, of smac's until {end}"
                claim += " (mean, least, most)"
                yield _claim(claim, "search loss", share, "at most 0.1", share.value <= 0.1)

    def text(self) -> str:
        """The tables."""
        rows = [self.row(arm) for arm in self.arms]
        head = ["arm", "seeds", "acc_norm", "of the best member", "above chance", "bits"]
        head += ["candidates", "million layer-tokens", "seconds"]
        lines = [
            [
                f"`{row['arm']}`",
                str(len(row["seeds"])),
                _cell(row["acc_norm"]),
                _cell(row["of_best"], ".1%"),
                _cell(row["of_best_above_chance"], ".1%"),
                _cell(row["bits"]),
                f"{np.mean(row['candidates']):.0f}" if any(row["candidates"]) else "",
                f"{np.mean(row['layer_tokens']) / 1e6:.1f}",
                f"{np.mean(row['seconds']):.0f}",
            ]
            for row in rows
        ]
        tasks = [[f"`{row['arm']}`", *map(_task_cell, row["tasks"].values())] for row in rows]
        claims = [
            [one["claim"], one["measure"], _cell(one["value"]), one["target"], one["met"]]
            for one in self.claims()
        ]
        names = [task.removesuffix("_calib") for task in self.chances]
        tables = table(head, lines), table(["arm", *names], tasks)
        return "\n\n".join([*tables, table(["claim", "measure", "value", "target", "met"], claims)])


def bits_of(scores: gt.Scores) -> float:
    """Bits per byte of gold answers and texts: the mean over the tasks."""
    found = [_measured(scores, task, "bits") for task in scores.tasks]
    return float(np.mean([one.value for one in found if one is not None]))


def _measured(scores: gt.Scores, task: str, measure: str) -> Measurement | None:
    metrics = scores.tasks[task]
    if measure == "bits":
        measure = "bits_per_byte" if "bits_per_byte" in metrics else "gold_bits_per_byte"
    return metrics.get(measure)


def _claim(claim: str, measure: str, value: Estimate, target: str, met: bool) -> dict[str, Any]:
    told = {"claim": claim, "measure": measure, "value": _plain(value), "target": target}
    return told | {"met": "yes" if met else "no"}


def _plain(one: Estimate) -> list[float | None]:
    numbers = (one.value, one.low, one.high)
    return [round(number, 5) if math.isfinite(number) else None for number in numbers]


def _cell(plain: Sequence[float | None] | None, form: str = ".3f") -> str:
    if plain is None:
        return "at chance"
    value, low, high = ("none" if each is None else format(each, form) for each in plain)
    return f"{value} [{low}, {high}]"


def _task_cell(metrics: Mapping[str, float]) -> str:
    wanted = ("acc_norm", "gold_bits_per_byte", "bits_per_byte")
    return " / ".join(f"{metrics[metric]:.3f}" for metric in wanted if metric in metrics)


def drawn_curves(points: Sequence[Point]) -> str:
    """An SVG picture: bits of the best candidate so far against layer-tokens, a line a run."""
    arms = list(dict.fromkeys(point["arm"] for point in points))
    logs = [math.log10(point["layer_tokens"]) for point in points]
    bits = [point["bits"] for point in points]
    x, y = Scale(min(logs), max(logs), 60, 560), Scale(min(bits), max(bits), 320, 20)
    axes = Axes(x, y)
    drawn = [*axes.rows(), *axes.columns(), axes.x_label("log10 of layer-tokens", 330)]
    lines: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for point, log in zip(points, logs, strict=True):
        lines.setdefault((point["arm"], point["seed"]), []).append((x(log), y(point["bits"])))
    for (arm, _), line in lines.items():
        number = arms.index(arm)
        colour = COLOURS[number % len(COLOURS)]
        dash = "5 3" if number >= len(COLOURS) else "none"
        drawn.append(text(580, 30 + 16 * number, arm, fill=colour, font_size=12))
        drawn.append(path(line, fill="none", stroke=colour, stroke_dasharray=dash))
    style = ".grid{stroke:#ddd} .tick,.axis{font:11px sans-serif} .mid{text-anchor:middle}"
    svg = picture(
        800,
        380,
        [tag("style", style + " .end{text-anchor:end}"), *drawn],
        title="Quality against layer-tokens",
        about="Bits per byte on dev examples of the best candidate so far; lower is better.",
    )
    return str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
