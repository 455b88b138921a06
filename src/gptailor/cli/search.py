"""``gptailor search``: run a study, or go on with it."""

import functools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Column, Table

from gptailor.cli.console import AsJson, ConfigPath, errors, path_option, screen
from gptailor.cli.faults import one_sentence
from gptailor.record.ranking import BEST
from gptailor.study import Progress
from gptailor.study.plan import roughly

if TYPE_CHECKING:
    from gptailor.app.run import Run
    from gptailor.config import Config
    from gptailor.core.score_table import MeanRow
    from gptailor.record.entries import Costs
    from gptailor.record.run_record import RunRecord

__all__ = ["command", "plain_result", "run_shown"]

_PHASES = {
    "references": "scoring the whole members",
    "coefficients": "fitting merging coefficients",
    "search": "searching",
    "selection": "choosing among the finalists",
    "repair": "refitting a finalist",
    "test": "scoring on unseen examples",
    "done": "done",
}
_QUIET_S = 15.0  # seconds between lines where there is no terminal


def command(
    config: ConfigPath,
    out: Annotated[
        Path | None, path_option("The run's folder; runs/NAME beside the config if absent.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search for the best smaller model; the same command goes on after a stop or a kill."""
    from gptailor.app.settings import run_folder, settings_of

    settings, folder = settings_of(config), out or run_folder(config)
    runs = run_shown(settings, folder)
    if as_json:
        plain = [plain_result(run) for run in runs.values()]
        typer.echo(json.dumps(plain if settings.ladder else plain[0]))
        return
    for run in runs.values():
        _show(run)
    at = "" if not settings.ladder else f" --remove {next(iter(runs))}"
    screen.print(f"next:          gptailor export {folder}{at} -o DIR")
    if settings.ladder:
        screen.print(f"the curve:     gptailor report {folder}")


def run_shown(settings: "Config", folder: Path) -> "dict[int, Run]":
    """Run a study, or go on with it, with messages and progress on the screen; exit at a stop."""
    from gptailor.app.run import run_depths  # slow

    stage = "preparing"
    show_message = functools.partial(errors.print, style="dim")

    def show(progress: Progress) -> None:
        nonlocal stage
        stage = _PHASES[progress.phase] if progress.phase != "done" else "measuring the result"
        draw(progress)

    again = "mend the cause and run the same command to go on"
    try:
        with one_sentence(folder, lambda: stage, again), _progress_display() as draw:
            return run_depths(settings, folder, on_message=show_message, on_progress=show)
    except KeyboardInterrupt:
        errors.print("stopped; what was done is recorded: run the same command to go on")
        raise typer.Exit(130) from None


def _show(run: "Run") -> None:
    """What a search has found and what it cost."""
    from gptailor.report.words import count, shares_text

    record, chosen = run.record, run.record.chosen
    assert chosen is not None, "a search that ends has chosen"
    screen.print(
        f"{count(chosen.n_tried, 'candidate')} of {record.header.n_kept} out of "
        f"{record.header.family.n_layers} layers tried, in {count(chosen.n_trials, 'trial')}; "
        f"trial {chosen.number} is the best"
    )
    mean = _kept(record)
    screen.print(f"keeps, unseen: {shares_text(mean.of_base, mean.of_best)}")
    if chosen.guard is not None:
        screen.print(f"the guard:     {chosen.guard}")
    screen.print(f"the run:       {run.folder}")
    screen.print(f"the tailoring: {run.folder / BEST}")
    if record.forecast is not None:
        screen.print(_costs(record.forecast, record.spent))


def _kept(record: "RunRecord") -> "MeanRow":
    """The shares of the base's and the best member's scores that the result keeps, unseen."""
    from gptailor.core.statistics import RESULT
    from gptailor.report.scores import evidence, table_of

    found = evidence(record)
    assert found is not None, "a search that ends has scored"
    return table_of(record, found).means[RESULT]


def plain_result(run: "Run") -> dict[str, Any]:
    """What ``--json`` prints of a run that has ended."""
    record, chosen = run.record, run.record.chosen
    assert chosen is not None, "a run that ends has chosen"
    result = chosen.model_dump(include={"number", "n_tried", "n_trials", "guard", "guard_cost"})
    result |= {"run": str(run.folder), "tailoring": run.tailoring.to_plain()}
    result |= {"kept": _kept(record).to_plain()}
    costs = {"forecast": record.forecast, "spent": record.spent}
    return result | {key: None if cost is None else cost.to_plain() for key, cost in costs.items()}


def _costs(forecast: "Costs", spent: "Costs | None") -> Table:
    """Predicted and actual costs, side by side."""
    from gptailor.report.words import cost_rows

    numbers = [Column(name, justify="right") for name in ("predicted", "actual", "off by")]
    table = Table("cost", *numbers, box=None, padding=(0, 2, 0, 0), header_style="", pad_edge=False)
    for row in cost_rows(forecast, spent):
        table.add_row(*row)
    return table


@contextmanager
def _progress_display() -> Iterator[Callable[[Progress], None]]:
    """Draw a bar on a terminal; elsewhere print a line now and then."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    text = TextColumn("{task.fields[text]}")
    live, last_phase, last_line = errors.is_terminal, "", 0.0
    bar = Bar(*columns, text, TimeElapsedColumn(), console=errors, disable=not live)
    task = bar.add_task("starting", start=False, total=None, text="")

    def show(progress: Progress) -> None:
        nonlocal last_phase, last_line
        phase, text, now = _PHASES[progress.phase], _progress_text(progress), time.monotonic()
        (n, most), unit = (progress.n_trials, progress.max_trials), "trials"
        if progress.steps is not None:
            (n, most), unit = progress.steps, "steps"
        bar.start()  # does nothing from the second time on
        bar.start_task(task)
        bar.update(task, description=phase, completed=n, total=most, text=text)
        if not live and (phase != last_phase or now - last_line > _QUIET_S):
            last_line = now
            errors.print(f"{phase}: {n}/{most} {unit} {text}")
        last_phase = phase

    try:
        yield show
    finally:
        bar.stop()


def _progress_text(progress: Progress) -> str:
    parts = []
    if progress.best is not None:
        number, loss, n_examples = progress.best
        gain = round(-100 * loss, 1) + 0.0  # never -0.0
        score = f"{gain:+.1f}% of the base" if progress.relative else f"with loss {loss:.4f}"
        parts.append(f"best #{number} {score} on {n_examples} examples")
    if progress.phase == "search":
        if progress.examples:
            parts.append(f"{progress.examples / max(progress.seconds, 1e-9):.0f} examples/s")
        if progress.left_s is not None:
            parts.append(f"{roughly(progress.left_s)} left")
    return " · ".join(parts)
