"""Compare members, baselines, results of runs and tailorings on the same unseen examples.

Scores that a run has recorded are used; what is missing is scored and timed once, and kept in
``compare.json`` beside the first run.
"""

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gptailor.app.settings import config_of_run, with_recorded_settings
from gptailor.app.tailoring_file import refuse_unreadable
from gptailor.config import load_config
from gptailor.core.statistics import Estimate
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.core.trial import Job, Scores
from gptailor.errors import ConfigError, RecordError, naming, unknown
from gptailor.record.entries import Header
from gptailor.record.evaluation_file import ComparisonFile, read_comparison
from gptailor.record.ladder_folder import earlier_runs
from gptailor.record.run_record import RunRecord, read_run
from gptailor.report.baselines import run_baselines
from gptailor.report.comparison import ComparedModel, Comparison, compared
from gptailor.report.scores import parameters_of
from gptailor.tasks.splits import SPLITS

__all__ = ["compare"]

_WHOLE = "whole member"
_TOGETHER = 8  # models that are scored before the file is written


@dataclass(frozen=True, slots=True)
class _Run:
    """A run, its members named as in the first run: by their weights."""

    record: RunRecord
    names: Mapping[str, str]  # a member's name here to its name in the first run

    @property
    def folder(self) -> str:
        """As the user wrote it."""
        return str(self.record.folder)

    def trial(self, number: int) -> Tailoring:
        """The tailoring of a trial; with its fitted tensors, if it was chosen."""
        return self.renamed(self.record.tailoring_of(number))

    def row(self, name: str, number: int, layer_tokens: int, seconds: float) -> ComparedModel:
        """The row of a trial that cost so much to find."""
        parameters = parameters_of([self.record], self.record.tailoring_of(number))
        return ComparedModel(
            name, self.trial(number), self.folder, parameters, layer_tokens, seconds
        )

    def renamed(self, tailoring: Tailoring) -> Tailoring:
        """The same tailoring of the first run's members."""

        def one(spec: LayerSpec) -> LayerSpec:
            return spec.with_sources(lambda each: replace(each, member=self.names[each.member]))

        outer = {part: one(spec) for part, spec in tailoring.outer_parts.items()}
        return Tailoring(tuple(map(one, tailoring.layers)), **outer)


@dataclass(frozen=True, slots=True)
class _Asked:
    """Runs and files that are compared, and the rows they give."""

    runs: tuple[_Run, ...]
    files: tuple[Path, ...]  # of loose tailorings
    models: tuple[ComparedModel, ...]
    split: str

    @property
    def header(self) -> Header:
        """Of the first run."""
        return self.runs[0].record.header

    @property
    def n_examples(self) -> int:
        """Of the task with the most examples."""
        return self.header.n_examples(self.split)


def compare(  # noqa: PLR0913  # what may be said of a comparison
    runs: Sequence[Path],
    tailorings: Sequence[Path] = (),
    *,
    config: Path | None = None,
    against: str = "best",
    split: str = "test",
    with_speed: bool = True,
    on_message: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Put whole members, baselines, results and tailorings side by side.

    Args:
        runs: Folders of runs of the same family and tasks. A run of baselines gives one row a
            baseline, another its chosen candidate.
        tailorings: Paths of tailoring.yaml files, a row each.
        config: The tailor.yaml, where it names a metric of your own.
        against: Which row differences are taken from: its name, or ``best``, the best member.
        split: ``test``, or ``selection``.
        with_speed: Whether models are timed.
        on_message: Called with a sentence before what takes long.

    Raises:
        UserError: The runs can't be compared, or a model can't be made.
    """
    if split not in SPLITS[1:]:
        raise ConfigError(unknown("split", split, SPLITS[1:]))
    if config is not None:
        load_config(config)  # its mistakes count also where nothing is to be measured
    runs, tailorings = _distinct(runs), _distinct(tailorings)
    opened = _same_family([read_run(run, with_evaluation=False) for run in runs], split)
    models, notes = _models(opened, tailorings)
    row = None if against == "best" else _row_named(models, against)
    asked = _Asked(opened, tailorings, models, split)
    file, failures = _completed(asked, config, with_speed, on_message)
    scores = _recorded(asked) | file.scores.get(split, {})
    unscored = {
        model.name: failures[model.tailoring.digest]
        for model in models
        if model.tailoring.digest not in scores
    }
    for name in (BASE, row):
        if name in unscored:
            raise RecordError(
                f"{name} can't be scored, and others can't be compared with it: {unscored[name]}"
            )
    notes += [f"{name} can't be scored: {failure}" for name, failure in unscored.items()]
    able = [model for model in models if model.name not in unscored]
    if with_speed:
        able = [replace(model, speed=_speed(asked.header, model, file)) for model in able]
    by_name = {model.name: scores[model.tailoring.digest] for model in able}
    return compared(asked.header, able, by_name, split=split, against=row, notes=tuple(notes))


def _distinct(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths without those that lead where an earlier one does."""
    found: dict[Path, Path] = {}
    for path in paths:
        found.setdefault(path.resolve(), path)
    return tuple(found.values())


def _row_named(models: Sequence[ComparedModel], wanted: str) -> str:
    """The name of a row, of which the name, or the folder or file of it alone, is given."""
    names = [model.name for model in models]
    if wanted in names:
        return wanted
    there = Path(wanted).resolve()
    rows = [m.name for m in models if m.origin != _WHOLE and Path(m.origin).resolve() == there]
    if not rows:
        raise ConfigError(f"--against: {unknown('row', wanted, ('best', *names))}")
    if len(rows) > 1:
        raise ConfigError(
            f"--against: {wanted} has {len(rows)} rows; name one of them: {', '.join(rows)}"
        )
    return rows[0]


def _same_family(records: Sequence[RunRecord], split: str) -> tuple[_Run, ...]:
    """Find each run's members in the first run; refuse other members or examples than there."""
    first, problems, runs = records[0], [], []
    by_digest = {digest: name for name, digest in reversed(first.header.family.digests.items())}
    for record in records:
        digests = record.header.family.digests
        dtypes = [each.header.config["family"]["dtype"] for each in (record, first)]
        if dtypes[0] != dtypes[1]:
            problems.append(
                f"{record.folder}: its dtype is {dtypes[0]}, that of {first.folder} {dtypes[1]}; "
                "compare runs of one dtype"
            )
        elif unlike := [name for name, digest in digests.items() if digest not in by_digest]:
            problems.append(
                f"{record.folder}: has members that {first.folder} does not have "
                f"({', '.join(unlike)}); compare runs of one family, the run with all members first"
            )
        ours, theirs = _digests(first.header, split), _digests(record.header, split)
        if unlike := [task for task in {**ours, **theirs} if ours.get(task) != theirs.get(task)]:
            problems.append(
                f"{record.folder}: has other {split} examples than {first.folder} in the tasks "
                f"{', '.join(unlike)}; compare runs with the same tasks, examples and seed"
            )
        names = {name: by_digest.get(digest, name) for name, digest in digests.items()}
        runs.append(_Run(record, names))
    if problems:
        raise RecordError(problems)
    return tuple(runs)


def _digests(header: Header, split: str) -> dict[str, str]:
    """Task to the digest of one split's examples."""
    digests = {}
    for task, facts in header.tasks.items():
        parts = facts.digest.split("-")
        digests[task] = parts[SPLITS.index(split)] if len(parts) == len(SPLITS) else facts.digest
    return digests


def _models(
    runs: Sequence[_Run], files: Iterable[Path]
) -> tuple[tuple[ComparedModel, ...], list[str]]:
    """The rows in order: members, runs, files; and notes on what has none."""
    header, notes = runs[0].record.header, []
    n_layers, whole = header.family.n_layers, header.family.parameters or None
    members = [
        ComparedModel(member, Tailoring.whole(member, n_layers), _WHOLE, whole)
        for member in header.family.members
    ]
    others: list[ComparedModel] = []
    for run in runs:
        chosen = run.record.chosen
        if chosen is None:
            raise RecordError(
                f"{run.folder}: nothing was chosen yet; finish it by the command that began it, or "
                "leave it out"
            )
        baselines, failures = _baselines(run)
        others += baselines if run.record.baselines else [_result(run, chosen.number)]
        notes += failures
    for file in files:
        tailoring = Tailoring.load(file)
        with naming(str(file)):
            tailoring.check(header.family.members, n_layers)
            refuse_unreadable(tailoring, [file.parent, *(run.record.folder for run in runs)])
        parameters = parameters_of([run.record for run in runs], tailoring)
        others.append(ComparedModel(str(file), tailoring, str(file), parameters))
    shared = Counter(m.name for m in [*members, *others])
    named = [replace(m, name=f"{m.name} ({m.origin})") if shared[m.name] > 1 else m for m in others]
    return (*members, *named), notes


def _result(run: _Run, number: int) -> ComparedModel:
    """The trial that a search chose, and what the study has cost.

    In a depth ladder the searches before it, whose results it starts from, are counted too.
    """
    record = run.record
    costs = [_cost(each) for each in [*map(read_run, earlier_runs(record.folder)), record]]
    layer_tokens, seconds = map(sum, zip(*costs, strict=True))
    return run.row(record.folder.resolve().name, number, layer_tokens, seconds)


def _cost(record: RunRecord) -> tuple[int, float]:
    """Layer-tokens and seconds of a study, finished or not."""
    if record.spent is not None:
        return record.spent.layer_tokens, record.spent.seconds
    tokens = sum(each.evaluation.layer_tokens for each in record.trials)
    return tokens, max(record.elapsed.values(), default=0.0)


def _baselines(run: _Run) -> tuple[list[ComparedModel], list[str]]:
    """The baselines of a run as they were scored, repaired or not; why others have no scores."""
    models, notes = [], []
    for each in run_baselines(run.record):
        name = f"{each.entry.name} on {run.names[each.entry.member]}"
        if each.trial is None:
            notes.append(f"{name} ({run.folder}): {each.failure}")
        else:
            costs = each.entry.alone_layer_tokens, each.entry.seconds
            models.append(run.row(name, each.trial.number, *costs))
    return models, notes


def _recorded(asked: _Asked) -> dict[str, Scores]:
    """Digest of a tailoring to its scores, where a run has recorded them."""
    scores: dict[str, Scores] = {}
    for run in asked.runs:
        record, tested = run.record, asked.split == "test"
        for model, found in (record.on_test if tested else record.on_selection).items():
            if isinstance(model, str):
                tailoring = Tailoring.whole(run.names[model], asked.header.family.n_layers)
            elif tested:  # the chosen one with the repair that it was chosen with
                tailoring = run.trial(model)
            else:
                tailoring = run.renamed(record.proposals[model].tailoring)
            scores.setdefault(tailoring.digest, found)
    return scores


def _completed(
    asked: _Asked, config: Path | None, with_speed: bool, on_message: Callable[[str], None]
) -> tuple[ComparisonFile, dict[str, str]]:
    """Scores and times measured earlier or now; why models have no scores, by their digests."""
    first, tasks = asked.runs[0].record, _digests(asked.header, asked.split)
    file = read_comparison(first.folder, asked.header.family.digests)
    if file.tasks.get(asked.split) != tasks:
        scores = {name: one for name, one in file.scores.items() if name != asked.split}
        file = file.model_copy(
            update={"tasks": file.tasks | {asked.split: tasks}, "scores": scores}
        )
    known = _recorded(asked).keys() | file.scores.get(asked.split, {}).keys()
    missing = {m.tailoring.digest: m for m in asked.models if m.tailoring.digest not in known}
    shapes = {_shape(asked.header, m.tailoring): m.tailoring for m in asked.models}
    untimed = with_speed and not shapes.keys() <= file.seconds.keys()
    if not missing and not untimed:
        return file, {}
    on_message("loading the family and the tasks ...")
    from gptailor.app.measure_models import (  # slow: problems come first
        open_evaluator,
        time_in_turns,
    )

    settings = with_recorded_settings(config_of_run(first, config, "compare"), first)
    folders = [*(Path(run.folder) for run in asked.runs), *(path.parent for path in asked.files)]
    evaluator = open_evaluator(settings, first, folders)
    for model in missing.values():
        with naming(model.name):
            evaluator.engine.family.check(model.tailoring)
    failures, todo = dict[str, str](), list(missing.values())
    for start in range(0, len(todo), _TOGETHER):
        group = todo[start : start + _TOGETHER]
        on_message(f"scoring {', '.join(model.name for model in group)} ...")
        jobs = [Job(model.tailoring, asked.n_examples, asked.split) for model in group]
        done = list(zip(group, evaluator.evaluate(jobs), strict=True))
        failures |= {m.tailoring.digest: one.failure for m, one in done if one.failure}
        new = {m.tailoring.digest: one.scores for m, one in done if one.scores is not None}
        old = file.scores.get(asked.split, {})
        scores = file.scores | {asked.split: old | new}
        file = file.model_copy(update={"scores": scores})
        file.save(first.folder)
    if untimed:
        on_message(f"timing {len(shapes)} models in turns ...")
        seconds = time_in_turns(evaluator, shapes, asked.split, asked.n_examples)
        file = file.model_copy(update={"seconds": seconds})
        file.save(first.folder)
    return file, failures


def _shape(header: Header, tailoring: Tailoring) -> str:
    """What the speed of a model depends on: how many layers, or which where they differ."""
    kinds = (header.family.model or {}).get("layer_types") or [""]
    if len({*header.family.layer_parameters}) == 1 and len({*map(str, kinds)}) == 1:
        return f"{len(tailoring.layers)} layers"
    return "layers " + ",".join(str(spec.position) for spec in tailoring.layers)


def _speed(header: Header, model: ComparedModel, file: ComparisonFile) -> Estimate:
    """How many times as fast as the base: the median of the rounds, the lowest, the highest."""
    base = file.seconds[_shape(header, Tailoring.whole(BASE, header.family.n_layers))]
    ratios = [
        slow / quick
        for slow, quick in zip(base, file.seconds[_shape(header, model.tailoring)], strict=False)
    ]
    return Estimate(statistics.median(ratios), min(ratios), max(ratios))
