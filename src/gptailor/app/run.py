"""Search for the best smaller model, read and export a run, and score one candidate."""

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptailor.app.settings import ConfigLike, run_folder, settings_of, with_recorded_settings
from gptailor.app.tailoring_file import refuse_unreadable
from gptailor.config import Config
from gptailor.core.specs import BASELINE
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Job, Scores, Trial
from gptailor.errors import ConfigError, RecordError, UserError, unknown
from gptailor.record.entries import ForecastEntry, TrialEntry
from gptailor.record.journal import RECORD, Journal, read_record
from gptailor.record.ladder_folder import depth_folder, refuse_other_form
from gptailor.record.ranking import BEST, write_results
from gptailor.record.run_record import RunRecord, read_run, run_of_lines
from gptailor.report import write_report
from gptailor.report.words import count
from gptailor.study import Progress, Study
from gptailor.study.plan import roughly

if TYPE_CHECKING:
    import pandas

    from gptailor.app.assemble import Assembly
    from gptailor.family import Family
    from gptailor.tasks.splits import TaskSplits
    from gptailor.workers import WorkerPool

__all__ = ["Run", "evaluate", "run_depths", "run_search", "search"]

_NAN = float("nan")


class Run:
    """The folder of a search, finished or not; it is read when it is opened.

    Args:
        folder: What `search` or ``gptailor search`` wrote.
        family: The family in memory that was searched, if its members are in no files.

    Raises:
        RecordError: The folder is not a run's, or its record is damaged.
    """

    def __init__(self, folder: str | Path, *, family: "Family | None" = None) -> None:
        self.folder = Path(folder)
        self.record: RunRecord = read_run(self.folder)
        self._family = family

    @property
    def best(self) -> Trial:
        """The chosen trial, with its tailoring and its scores on the search split.

        Raises:
            RecordError: The search has not ended yet.
        """
        if self.record.chosen_trial is None:
            raise RecordError(
                f"{self.folder}: no candidate was chosen yet; finish the search: call search with "
                "the same config and folder"
            )
        return self.record.chosen_trial

    @property
    def tailoring(self) -> Tailoring:
        """The chosen tailoring, its repair included.

        Raises:
            RecordError: The search has not ended yet.
        """
        return self.record.result or self.best.tailoring

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial in order, complete or failed."""
        return self.record.trials

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats on every task, among those on the most examples."""
        return self.record.front

    @property
    def scores(self) -> Mapping[str, Scores]:
        """Member, or ``result``, to its scores on the test split; empty before the search ends."""
        return self.record.test_scores

    def export(  # what the command's options are
        self,
        out: str | Path,
        format: str = "hf",  # the word of the command line
        *,
        trial: int | None = None,
        dtype: str | None = None,
        overwrite: bool = False,
        family: "Family | None" = None,
    ) -> Path:
        """Write the chosen model, or another trial's, for other tools to load.

        Args:
            out: A folder for ``hf``; a file for ``gguf`` and ``mergekit``.
            format: ``hf`` (a stock checkpoint), ``gguf`` (llama.cpp) or ``mergekit`` (a recipe).
            trial: A trial's number; the chosen one if absent.
            dtype: For ``hf`` float32, bfloat16 or float16; for ``gguf`` f16, bf16, q8_0 or f32.
            overwrite: Replace a folder or file that no export wrote.
            family: The members, where they are in no files and the run was opened anew.

        Returns:
            The folder or file.

        Raises:
            UserError: It can't be written as asked, or the members changed since the search.
        """
        from gptailor.app.export_run import export
        from gptailor.export.options import ExportOptions

        out, family = Path(out), family or self._family
        options = ExportOptions.of(format, out, dtype=dtype)
        export(self.folder, out, options, trial=trial, overwrite=overwrite, family=family)
        return out

    def report(self, out: str | Path | None = None) -> Path:
        """Write one HTML file about the run; ``report.html`` in its folder if absent.

        Raises:
            UserError: The file can't be written.
        """
        return write_report(self.folder, None if out is None else Path(out))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row a trial, as a pandas table (extra ``pandas``).

        Columns: number, origin, n_layers, n_examples, loss (the weighted mean, relative to the
        base), a column ``TASK METRIC`` for each task, failure, seconds, layer_tokens, chosen, and
        the layers as text. A failed trial has NaN for its loss and metrics.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                "to_dataframe needs pandas, which is not installed; run: pip install pandas"
            ) from None
        return pandas.DataFrame([self._row(trial) for trial in self.trials])

    def _row(self, trial: Trial) -> dict[str, object]:
        objective, scores = self.record.objective, trial.scores
        names = [(goal.task, goal.metric) for goal in self.record.goals]
        loss, values = _NAN, dict.fromkeys(names, _NAN)
        if scores is not None and objective is not None:
            loss, values = objective.scalar(scores), {name: scores.value(*name) for name in names}
        return {
            "number": trial.number,
            "origin": trial.proposal.origin,
            "n_layers": len(trial.tailoring.layers),
            "n_examples": trial.proposal.n_examples,
            "loss": loss,
            **{f"{task} {metric}": value for (task, metric), value in values.items()},
            "failure": trial.failure,
            "seconds": trial.evaluation.seconds,
            "layer_tokens": trial.evaluation.layer_tokens,
            "chosen": trial == self.record.chosen_trial,
            "layers": ", ".join(map(str, trial.tailoring.layers)),
        }


def search(  # the parts of a search
    config: ConfigLike,
    out: str | Path | None = None,
    *,
    searcher: str | Callable[..., Any] | None = None,
    family: "Family | None" = None,
    tasks: "Mapping[str, TaskSplits] | None" = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Search for the best smaller model; a search that was stopped goes on where it ended.

    Args:
        config: The path of a tailor.yaml, a mapping with its keys, or a `Config`.
        out: The run's folder; ``runs/NAME`` beside the config's file if absent.
        searcher: A searcher's name, or a generator function of your own, instead of the config's.
        family: A family in memory; the config then needs no section ``family``.
        tasks: What `load_tasks` returned; the config then needs no section ``tasks``.
        on_progress: Called after every trial and at every change of phase.

    Returns:
        The finished run.

    Raises:
        UserError: Something in the config, a member, a task or the folder is invalid, or no
            candidate could be scored.
    """
    settings = settings_of(config, searcher=searcher, family=family, tasks=tasks)
    folder = run_folder(config) if out is None else Path(out)
    return run_search(settings, folder, family=family, tasks=tasks, on_progress=on_progress)


def run_search(
    config: Config,
    folder: Path,
    *,
    family: "Family | None" = None,
    tasks: "Mapping[str, TaskSplits] | None" = None,
    on_message: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Load everything, search, score the result on the test split, and write the results.

    `on_message` gets a sentence before the members are loaded, and the notes about them.
    """
    if config.ladder:
        raise ConfigError("remove: names several depths; name one, or call run_depths")
    given: dict[str, Any] = {"family": family, "tasks": tasks}
    runs = run_depths(config, folder, on_message=on_message, on_progress=on_progress, **given)
    return next(iter(runs.values()))


def run_depths(
    config: Config,
    folder: Path,
    *,
    family: "Family | None" = None,
    tasks: "Mapping[str, TaskSplits] | None" = None,
    on_message: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[int, Run]:
    """As `run_search`, for one number of layers to cut or for each of a depth ladder.

    Returns:
        Number of layers cut to the finished run, rising.
    """
    refuse_other_form(folder, is_ladder=bool(config.ladder))
    folders = [depth_folder(folder, depth) for depth in config.ladder] or [folder]
    record = None
    for each in folders:  # a damaged record is refused before anything is loaded
        lines = read_record(each / RECORD) if (each / RECORD).exists() else []
        if lines:
            found = run_of_lines(each, lines)
            record, config = record or found, with_recorded_settings(config, found)
            if found.result is not None:
                refuse_unreadable(found.result, [each])
    members = count(1 + len(config.family.variants), "member")
    on_message(f"loading {members} and {count(len(config.tasks), 'task')} ...")
    from gptailor.app.assemble import assemble, open_pool  # slow
    from gptailor.app.greedy_tasks import recorded_texts
    from gptailor.app.ladder import after, at_depth
    from gptailor.family.fitted import FOLDER

    runs = {}
    with closing(open_pool(config)):  # what it lacks is reported before the family is loaded
        assembly = assemble(config, family=family, tasks=tasks, own_texts=recorded_texts(record))
        notes = [*assembly.family.notes]
        notes += [note for splits in assembly.tasks.values() for note in splits.notes]
        if assembly.space.repair is not None or (config.search.name == BASELINE and not record):
            notes += assembly.repairs.calibration.notes  # a fault in the texts leaves no folder
        # before the pool is made, so that its workers look there, too
        for each in folders:
            assembly.family.fitted.look_in(each.resolve() / FOLDER)
        with closing(assembly.pool()) as pool:
            for note in notes:
                on_message(f"note: {note}")
            depths = config.ladder or (assembly.plan.n_removed,)
            for depth, each in zip(depths, folders, strict=True):
                if config.ladder:
                    on_message(f"{count(depth, 'layer')} cut, in {each}")
                _run_one(at_depth(assembly, depth), each, pool, on_message, on_progress)
                runs[depth] = run = Run(each, family=family)
                assembly = after(assembly, run.record.trials, run.record.entries)
    return runs


def _run_one(
    assembly: "Assembly",
    folder: Path,
    pool: "WorkerPool",
    on_message: Callable[[str], None],
    on_progress: Callable[[Progress], None],
) -> None:
    """Run one study, or go on with it, and write its results."""
    from gptailor.app.assemble import open_study
    from gptailor.app.baseline_run import with_baselines
    from gptailor.app.costs import record_costs, record_forecast
    from gptailor.app.prove import record_proof

    chosen_there = False

    def write(study: "Study", chosen: Tailoring) -> None:
        nonlocal chosen_there
        write_results(folder, chosen, study.front(), study.objective)
        chosen_there = True

    with Journal(folder) as journal:
        if assembly.config.search.name == BASELINE:
            assembly = with_baselines(assembly, journal, on_message)
        study = open_study(
            assembly,
            journal,
            on_progress=on_progress,
            on_chosen=write,  # at once: a fault in what follows loses nothing that was decided
            pool=pool,
        )
        expected = record_forecast(journal, assembly)
        if assembly.config.search.name != BASELINE:
            on_message(_expectation(assembly, expected, journal))
        try:
            _, chosen = study.run()
            record_costs(journal, assembly)
            record_proof(journal, assembly, chosen, on_message)
        except Exception:
            if chosen_there:
                on_message(
                    f"note: the choice is in {folder / BEST}: gptailor export {folder} -o DIR"
                )
            raise


def _expectation(assembly: "Assembly", expected: ForecastEntry | None, journal: Journal) -> str:
    """What a study will take, as far as it is known; a sentence."""
    plan, n_done = assembly.plan, sum(1 for _ in journal.of(TrialEntry))
    wanted = f"for a model of {plan.n_kept} of {plan.n_layers} layers"
    if expected is None:
        from gptailor.app.assemble import evaluates_apart

        trials = count(plan.max_trials, "trial")
        fit = f"; coefficients are fitted first, in {plan.n_steps} steps on the CPU"
        first = fit if plan.n_steps and not n_done and evaluates_apart(assembly.config) else ""
        return f"expected: at most {trials} {wanted}, of which {n_done} are done{first}"
    return (
        f"expected: {count(expected.n_trials, 'trial')} {wanted}, {roughly(expected.seconds)}, "
        f"{expected.peak_bytes / 2**20:,.0f} MiB of memory"
    )


def evaluate(
    candidate: Tailoring | str,
    family: "Family",
    tasks: "Mapping[str, TaskSplits]",
    *,
    split: str = "test",
    n_examples: int | None = None,
) -> Scores:
    """Score one candidate by the engine, without building a model.

    Args:
        candidate: A tailoring; or a member's name, for the whole member.
        family: The members.
        tasks: What `load_tasks` returned.
        split: ``search``, ``selection`` or ``test``.
        n_examples: The first so many examples of each task; all if absent.

    Raises:
        UserError: The candidate does not fit the family, or can't be scored.
    """
    from gptailor.app.assemble import evaluator_on
    from gptailor.engine import Engine
    from gptailor.engine.selfcheck import refuse_inexact
    from gptailor.tasks.splits import SPLITS

    if split not in SPLITS:
        raise ConfigError(unknown("split", split, SPLITS))
    if isinstance(candidate, str):
        if candidate not in family.members:
            raise ConfigError(unknown("member", candidate, family.members))
        candidate = Tailoring.whole(candidate, family.n_layers)
    family.check(candidate)
    if n_examples is None:
        n_examples = max(splits.by_name[split].n_examples for splits in tasks.values())
    engine = Engine(family, device=family.states[BASE][family.layout.embedding].device)
    refuse_inexact(engine)
    (done,) = evaluator_on(engine, tasks).evaluate([Job(candidate, n_examples, split)])
    if done.scores is None:
        raise UserError(f"the candidate can't be scored: {done.failure}")
    return done.scores
