"""The judge of `quality.py`: scores on dev examples, kept on disk by the digest of a tailoring."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from quality_arms import Settings, opened, repairs_of

import gptailor as gt
from gptailor.app.assemble import evaluator_on
from gptailor.core.prefix_trie import in_order
from gptailor.core.trial import Measurement
from gptailor.family.fitted import FOLDER
from gptailor.files.atomic import write_atomically

__all__ = ["groups", "judge", "known_scores", "scores_of"]

GROUP = 6  # tailorings scored together; what a kill can cost


def _path(settings: Settings, tailoring: gt.Tailoring) -> Path:
    return settings.out / "judged" / f"{tailoring.digest}.json"


def known_scores(settings: Settings, tailoring: gt.Tailoring, n: int) -> gt.Scores | None:
    """The scores on the first `n` dev examples of each task; None if it was scored on fewer."""
    path = _path(settings, tailoring)
    if not path.exists():
        return None
    plain = json.loads(path.read_text(encoding="utf-8"))
    if plain["n"] < n:
        return None
    return scores_of(settings, plain["tasks"], n)


def scores_of(
    settings: Settings, values: Mapping[str, Mapping[str, Sequence[float]]], n: int
) -> gt.Scores:
    """Scores from the values of each dev example, by task and metric; of the first `n` examples."""
    tasks = {name: splits.test for name, splits in opened(settings)[1].items()}
    return gt.Scores(
        {
            name: {
                metric: Measurement(metric, tuple(found[:n]), tasks[name].weights(metric, n))
                for metric, found in metrics.items()
            }
            for name, metrics in values.items()
        }
    )


def groups(
    settings: Settings, wanted: Mapping[gt.Tailoring, int]
) -> list[tuple[tuple[gt.Tailoring, ...], int]]:
    """What is not scored yet, in groups that share layers, each with its number of examples."""
    found = []
    for n in sorted(set(wanted.values()), reverse=True):
        asked = [each for each, most in wanted.items() if most == n]
        missing = [each for each in asked if known_scores(settings, each, n) is None]
        ordered = [missing[index] for index, _ in in_order(missing)]
        found += [(tuple(ordered[i : i + GROUP]), n) for i in range(0, len(ordered), GROUP)]
    return found


def judge(settings: Settings, tailorings: Sequence[gt.Tailoring], n: int) -> list[str]:
    """Score tailorings on the first `n` dev examples of each task, and keep their numbers.

    Returns:
        A sentence for each that can't be scored.
    """
    family, tasks = opened(settings)
    for folder in (settings.out / "runs").glob(f"*/*/{FOLDER}"):
        family.fitted.look_in(folder)
    layers = [spec for each in tailorings for spec in each.layers]
    if any(spec.refit_to is not None and spec.fitted is None for spec in layers):
        _ = repairs_of(settings, "refit").repairer  # from now on such layers are fitted
    jobs = [gt.Job(each, n, "test") for each in tailorings]
    done = evaluator_on(gt.Engine(family), tasks).evaluate(jobs)
    problems = []
    for each, one in zip(tailorings, done, strict=True):
        if one.scores is None:
            problems.append(f"{each.digest} can't be scored: {one.failure}")
            continue
        kept = {
            task: {metric: measured.values for metric, measured in metrics.items()}
            for task, metrics in one.scores.tasks.items()
        }
        plain = {"n": n, "seconds": one.seconds, "layer_tokens": one.layer_tokens, "tasks": kept}
        write_atomically(_path(settings, each), json.dumps(plain))
    return problems
