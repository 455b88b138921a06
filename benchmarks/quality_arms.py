"""The arms of `quality.py`: the runs, and the models that come out of them.

A run is what gptailor makes in one folder; its ``tailor.yaml`` is written there before it begins.
"""

import fnmatch
import functools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import scored

import gptailor as gt
from gptailor.app.assemble import evaluator_on
from gptailor.app.baseline_settings import baseline_settings
from gptailor.app.inputs import open_calibration
from gptailor.app.repairs import Repairs
from gptailor.app.run import run_search
from gptailor.config import config_of, load_config
from gptailor.config.repair_config import RepairConfig
from gptailor.core.plugins import BASELINES
from gptailor.core.repair import without_repair
from gptailor.core.specs import BASELINE
from gptailor.core.tailoring import BASE
from gptailor.family.dtypes import dtype_of
from gptailor.family.fitted import FOLDER
from gptailor.files.atomic import write_atomically
from gptailor.record.entries import ModelEntry
from gptailor.record.run_record import RunRecord
from gptailor.tasks.splits import TaskSplits

__all__ = ["ARMS", "SUITES", "Arm", "Found", "Moment", "Settings", "best_member", "few", "moments"]

CHOICE = ("arc_easy", "arc_challenge", "piqa", "commonsenseqa", "socialiqa", "openbookqa")
SUITES: dict[str, dict[str, str]] = {  # task -> what a search is to keep
    "choice": dict.fromkeys(CHOICE, "acc_norm"),
    "mixed": dict.fromkeys(("arc_easy", "piqa", "commonsenseqa"), "gold_bits_per_byte")
    | dict.fromkeys(("gsm8k_bpb", "code_bpb"), "bits_per_byte"),
}
BEST = "best"  # stands for the best member, which is found on search examples
REPAIRED = "repaired.json"  # what baselines came to, with and without repair
DRAWN = ("random", "huang", "evopress")  # baselines in which chance plays a part
# baselines that search, and options with which it takes some 20 million layer-tokens
SLOW = {"sleb": {"n_tokens": 8192}, "evopress": {"first_tokens": 256, "second_tokens": 1024}}
Moment = tuple[int, float, gt.Tailoring]  # layer-tokens so far, proxy loss, best candidate
MOMENTS = 6  # of each search, the last at its end, each at half the layer-tokens of the next


@dataclass(frozen=True, slots=True)
class Settings:
    """What all arms have in common."""

    family: Path  # a folder with one folder for each variant
    base: str
    tasks: Path  # a folder with NAME_calib.yaml and NAME_dev.yaml
    texts: tuple[str, ...]  # files of calibration texts; none: the search examples
    out: Path
    suite: str
    rungs: tuple[int, ...]
    remove: int
    layer_tokens: int  # of each search but smac's
    smac_trials: int
    selection: float  # share of the examples on which finalists are compared
    judge_limit: int  # dev examples of each task
    baselines: tuple[str, ...] = ("*",)  # names or patterns
    repairs: tuple[str, ...] = ("scale", "refit")  # of the baselines' models

    @property
    def variants(self) -> dict[str, str]:
        """Name to folder."""
        folders = sorted(folder for folder in self.family.iterdir() if folder.is_dir())
        return {each.name: str(each) for each in folders if each.name != BASE}

    def task_specs(
        self, test_limit: int, weights: Mapping[str, float] | None = None
    ) -> list[dict[str, Any]]:
        """The section ``tasks`` of a config: search on calib, test on dev."""
        weights = weights or {}
        return [
            {
                "name": str(self.tasks / f"{task}_calib.yaml"),
                "metric": metric,
                "test_task": str(self.tasks / f"{task}_dev.yaml"),
                "test_limit": test_limit,
                "weight": weights.get(f"{task}_calib", 1.0),
            }
            for task, metric in SUITES[self.suite].items()
        ]


@dataclass(frozen=True, slots=True)
class Found:
    """A model that came out of a run, with one seed."""

    arm: str
    seed: int
    tailoring: gt.Tailoring
    layer_tokens: int = 0  # that finding it took
    seconds: float = 0.0
    n_candidates: int = 0  # that were tried, of a search


@dataclass(frozen=True, slots=True)
class Arm:
    """A search, or a run of all baselines."""

    name: str
    search: str
    member: str | None = None  # whose layers alone are cut; None: those of the whole family
    merge: tuple[str, ...] = ("task_arithmetic",)
    repair: str = "none"
    coefficients: float | None = None  # of the budget, for fitting them; None: the default

    def folder(self, settings: Settings, seed: int) -> Path:
        """Its run's folder."""
        return settings.out / "runs" / self.name / str(seed)

    def ended(self, settings: Settings, seed: int) -> bool:
        """Whether its run has ended: the file is written at the very end."""
        name = REPAIRED if self.search == BASELINE else "best.yaml"
        return (self.folder(settings, seed) / name).exists()

    def config(self, settings: Settings, seed: int, best: str) -> dict[str, Any]:
        """Its ``tailor.yaml``."""
        base, variants, rungs = settings.base, settings.variants, list(settings.rungs)
        selection = settings.selection
        budget: dict[str, Any] = {"max_trials": settings.smac_trials}
        if self.search == BASELINE:  # scores decide nothing here
            rungs, selection = rungs[:1], 0.01
        elif self.search != "smac":
            budget = {"max_trials": 100_000, "layer_tokens": settings.layer_tokens}
        if self.coefficients is not None:
            budget["coefficients"] = self.coefficients
        if self.search != BASELINE and self.member is not None:
            variants = {}
            if self.member_of(best) != BASE:
                base = str(settings.out / "members" / best)
        return {
            "family": {"base": base, "variants": variants},
            "remove": settings.remove,
            "merge": list(self.merge),
            "repair": self.repair,
            "calibration": {"texts": settings.texts} if settings.texts else {},
            # the judge scores the test examples
            "tasks": settings.task_specs(4, _weights(settings, self.member_of(best))),
            "examples": {"search": 1 - selection, "selection": selection},
            "search": "evolution" if self.search == BASELINE else self.search,
            "budget": budget | {"n_examples": rungs},
            "engine": {"threads": 1},
            "seed": seed,
        }

    def member_of(self, best: str) -> str:
        """The member whose layers are cut, by its name in the family."""
        return best if self.member == BEST else BASE

    def run(self, settings: Settings, seed: int, best: str) -> None:
        """Begin the run, or go on with it."""
        path = self.folder(settings, seed) / "tailor.yaml"
        write_atomically(path, json.dumps(self.config(settings, seed, best), indent=2))
        config = load_config(path)
        if self.search != BASELINE:
            run_search(config, path.parent)
            return
        member, names = self.member_of(best), [n for n in BASELINES.names if n not in SLOW]
        if self.name.startswith("slow"):
            names = [*SLOW]
        names = [name for name in names if name in DRAWN or not seed]
        names = [n for n in names if any(fnmatch.fnmatch(n, each) for each in settings.baselines)]
        if not names:  # of those that are asked for none has draws
            write_atomically(path.with_name(REPAIRED), "[]")
            return
        options = {name: SLOW[name] for name in names if name in SLOW}
        config = baseline_settings(config, ",".join(names), member=member, options=options)
        record = run_search(config, path.parent).record
        so_far, repaired = path.with_name("repaired so far.json"), []
        if so_far.exists():
            repaired = json.loads(so_far.read_text(encoding="utf-8"))
        known = {one["arm"] for one in repaired}
        for name, entry in record.baselines.items():
            if entry.tailoring is None or f"{name}@{self.member}" in known:
                continue
            models = _repaired(settings, path.parent / FOLDER, entry.tailoring)
            repaired += [
                {
                    "arm": f"{name}@{self.member}{end}",
                    "layer_tokens": entry.alone_layer_tokens + layer_tokens,
                    "seconds": entry.seconds + seconds,
                    "tailoring": tailoring.to_plain(),
                }
                for end, (tailoring, seconds, layer_tokens) in models.items()
            ]
            write_atomically(so_far, json.dumps(repaired))
        write_atomically(path.with_name(REPAIRED), json.dumps(repaired))
        so_far.unlink(missing_ok=True)

    def found(self, settings: Settings, seed: int, best: dict[str, Any]) -> Iterator[Found]:
        """The models of its run, if it has ended."""
        if not self.ended(settings, seed):
            return
        folder = self.folder(settings, seed)
        if self.search == BASELINE:
            for one in json.loads((folder / REPAIRED).read_text(encoding="utf-8")):
                if one["arm"].partition("+")[2] not in ("", *settings.repairs):
                    continue
                tailoring = gt.Tailoring.from_plain(one["tailoring"])
                yield Found(one["arm"], seed, tailoring, one["layer_tokens"], one["seconds"])
            return
        chosen = gt.Tailoring.load(folder / "best.yaml")
        chosen = _renamed(chosen, self.member_of(best["member"]))
        record = gt.Run(folder).record
        spent, n_candidates = record.spent, record.chosen.n_tried if record.chosen else 0
        assert spent is not None, "written before best.yaml"
        # that the best member is known was paid for before
        before = best["layer_tokens"] if self.member == BEST else 0
        costs = spent.layer_tokens + before, spent.seconds, n_candidates
        yield Found(self.name, seed, chosen, *costs)
        if self.repair != "none":
            yield Found(f"{self.name}, unrepaired", seed, without_repair(chosen))


@functools.cache  # baselines often come to equal cuts
def _repaired(
    settings: Settings, folder: Path, tailoring: gt.Tailoring
) -> dict[str, tuple[gt.Tailoring, float, int]]:
    """A model as it is and with each repair that changes it; the seconds and layer-tokens of it."""
    opened(settings)[0].fitted.look_in(folder)
    found = {"": (tailoring, 0.0, 0)}
    for name in settings.repairs:
        repairs = repairs_of(settings, name)
        started, before = time.perf_counter(), repairs.engine.stream_layer_tokens
        repaired = repairs.repaired(tailoring)
        if repaired != tailoring:  # else nothing is known to be cut
            repairs.engine.family.fitted.save(repaired, folder)
            spent = repairs.engine.stream_layer_tokens - before
            found[f"+{name}"] = repaired, time.perf_counter() - started, spent
    return found


_ARMS = [Arm(name, name) for name in ("random", "smac", "optuna")]
_ARMS += [Arm(f"greedy@{member}", "greedy", member) for member in (BASE, BEST)]
_ARMS += [
    Arm(f"{name}@{member}", BASELINE, member)
    for name in ("baselines", "slow-baselines")
    for member in (BASE, BEST)
]
for _end, _repair in {"": "none", "+refit": "refit"}.items():
    for _member in (BASE, BEST):
        _ARMS.append(Arm(f"evolution-cut@{_member}{_end}", "evolution", _member, (), _repair))
    _ARMS.append(Arm(f"evolution-select{_end}", "evolution", merge=(), repair=_repair))
    _ARMS.append(Arm(f"evolution-all{_end}", "evolution", repair=_repair))
    # the same without slopes
    _ARMS.append(Arm(f"evolution-scores{_end}", "evolution", repair=_repair, coefficients=0.0))
ARMS = {arm.name: arm for arm in _ARMS}


@functools.cache
def opened(settings: Settings) -> tuple[gt.Family, dict[str, TaskSplits]]:
    """The whole family, and the tasks: search and selection on calib, test on dev."""
    torch.set_num_threads(1)
    variants = {name: gt.MemberSpec(path=path) for name, path in settings.variants.items()}
    dtype = dtype_of("auto", "cpu")
    family = gt.load_family(gt.MemberSpec(path=settings.base), variants, dtype=dtype)
    specs = settings.task_specs(test_limit=settings.judge_limit)
    return family, gt.load_tasks(specs, family, shares=(0.9, 0.1, 0.1))


@functools.cache
def repairs_of(settings: Settings, name: str) -> Repairs:
    """Repairs of the whole family, from the calibration rows of every run with texts."""
    family, tasks = opened(settings)
    config = config_of(ARMS["evolution-all"].config(settings, 0, BASE))
    calibration = functools.partial(open_calibration, config, family, tasks)
    return Repairs(RepairConfig.model_validate(name), gt.Engine(family), calibration)


def best_member(settings: Settings) -> dict[str, Any]:
    """Find the member with the lowest loss on search examples, and export it."""
    path = settings.out / "best_member.json"
    if not path.exists():
        family, tasks = opened(settings)
        wholes = [gt.Tailoring.whole(member, family.n_layers) for member in family.members]
        jobs = [gt.Job(whole, settings.rungs[-1]) for whole in wholes]
        done = evaluator_on(gt.Engine(family), tasks).evaluate(jobs)
        scores = {name: scored(each) for name, each in zip(family.members, done, strict=True)}
        goals = [gt.Goal(name, splits.spec.metric) for name, splits in tasks.items()]
        objective = gt.Objective(goals, scores[BASE])
        losses = {name: objective.scalar(each) for name, each in scores.items()}
        best = min(losses, key=lambda name: losses[name])
        whole = wholes[family.members.index(best)]
        gt.export_checkpoint(family, whole, settings.out / "members" / best, overwrite=True)
        found = {"member": best, "losses": losses, "n_layers": family.n_layers}
        found["values"] = {
            name: {goal.task: each.value(goal.task, goal.metric) for goal in goals}
            for name, each in scores.items()
        }
        found["layer_tokens"] = sum(each.layer_tokens for each in done)
        write_atomically(path, json.dumps(found, indent=2))
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return known


def _weights(settings: Settings, base: str) -> dict[str, float]:
    """Weights by which a run from this base minimises the plain mean of bits over the tasks.

    Losses are relative to the run's base. Where the metrics are no bits, all tasks weigh the same.
    """
    if settings.suite != "mixed" or not (settings.out / "best_member.json").exists():
        return {}
    values: dict[str, float] = best_member(settings)["values"][base]
    return values


def moments(record: RunRecord, member: str) -> tuple[list[Moment], int]:
    """Each new best candidate of a search: layer-tokens so far, proxy loss, tailoring.

    Only candidates on all search examples are compared; the layer-tokens are those of the whole
    members, of fitted coefficients and of the trials. The run's base is `member` of the family.

    Returns:
        The candidates, and the layer-tokens of the whole search.
    """
    objective, rung = record.objective, record.header.rungs[-1]
    assert objective is not None, "a finished run scored the base"
    members = [entry for entry in record.entries if isinstance(entry, ModelEntry)]
    spent = sum(entry.layer_tokens for entry in members if entry.kind == "reference")
    spent += sum(entry.layer_tokens for entry in record.slopes)
    best: list[Moment] = []
    for trial in record.trials:
        spent += trial.evaluation.layer_tokens
        sized = len(trial.tailoring.layers) == record.header.n_kept
        if trial.scores is None or trial.proposal.n_examples < rung or not sized:
            continue
        loss = objective.scalar(trial.scores, proxy=True)
        if not best or loss < best[-1][1]:
            best.append((spent, loss, _renamed(trial.tailoring, member)))
    return best, spent


def few(best: Sequence[Moment]) -> list[Moment]:
    """The best candidates at a few moments: at the last one, at half its layer-tokens, ..."""
    if not best:
        return []
    limits = [best[-1][0] / 2**power for power in reversed(range(MOMENTS))]
    known = [[one for one in best if one[0] <= limit][-1:] for limit in limits]
    return list(dict.fromkeys(one for last in known for one in last))


def _renamed(tailoring: gt.Tailoring, member: str) -> gt.Tailoring:
    """The same layers, taken from another member than the base."""
    if member == BASE:
        return tailoring
    text = json.dumps(tailoring.to_plain())
    for end in ('"', ":"):
        text = text.replace(f'"{BASE}{end}', f'"{member}{end}')
    return gt.Tailoring.from_plain(json.loads(text))
