"""``gptailor search``: run a study, or go on with it."""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from gptailor.cli.console import errors, named, run_folder, screen
from gptailor.cli.progress_bar import ProgressDisplay
from gptailor.cli.show_costs import show_costs
from gptailor.core.trial import Trial

__all__ = ["command"]


def command(
    config: Annotated[Path, typer.Argument(help="The tailor.yaml.", callback=named)],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder; runs/NAME beside the config if absent.", callback=named
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search for the best smaller model; the same command goes on after a stop or a kill."""
    folder = out or run_folder(config)
    try:
        chosen, entries, n_layers = _run(config, folder)
    except KeyboardInterrupt:
        errors.print("stopped; what was scored is recorded: run the same command to go on")
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(_result(folder, chosen, entries)))
        return
    entry = entries["chosen"]
    kept = len(chosen.tailoring.layers)
    screen.print(
        f"{entry['n_tried']} candidates of {kept} out of {n_layers} layers tried, in "
        f"{entry['n_trials']} trials; trial {chosen.number} is the best"
    )
    screen.print(f"the run:       {folder}")
    screen.print(f"the tailoring: {folder / 'best.yaml'}")
    screen.print(f"next:          gptailor export {folder} -o DIR")
    show_costs(entries.get("forecast"), entries["spent"])


def _run(config: Path, folder: Path) -> tuple[Trial, dict[str, dict[str, Any]], int]:
    """The chosen trial, the record's last entries on costs and choice, and the members' layers."""
    from gptailor.config import load_config
    from gptailor.record.journal import RECORD, Journal, read_record
    from gptailor.record.ranking import write_results
    from gptailor.record.run import read_run

    loaded = load_config(config)
    if (folder / RECORD).exists() and read_record(folder / RECORD):
        read_run(folder)  # every line is held against its kind: a damaged record is told here
    errors.print(f"loading the family and the tasks of {config} ...", style="dim")
    from gptailor.app.assemble import (  # slow: problems first
        assemble,
        open_study,
        probe_workers,
        with_recorded_settings,
    )
    from gptailor.forecast.costs import record_costs, record_forecast

    loaded = with_recorded_settings(loaded, folder)
    with closing(probe_workers(loaded)):  # what they lack is told before minutes pass
        assembly = assemble(loaded)
        task_notes = [note for parts in assembly.tasks.values() for note in parts.notes]
        for note in (*assembly.family.notes, *task_notes):
            errors.print(f"note: {note}", style="dim")
        with (
            closing(assembly.pool()) as pool,
            Journal(folder) as journal,
            ProgressDisplay(errors) as display,
        ):
            study = open_study(assembly, journal, on_progress=display.show, pool=pool)
            record_forecast(journal, assembly)
            chosen = study.run()
            record_costs(journal, assembly)
            write_results(folder, chosen, study.front(), study.objective)
            kinds = ("forecast", "chosen", "spent")
            entries = {kind: entry for kind in kinds for entry in journal.of(kind)}
            return chosen, entries, assembly.family.n_layers


def _result(
    folder: Path, chosen: Trial, entries: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    entry = entries["chosen"]
    return {
        "run": str(folder),
        "number": chosen.number,
        "n_tried": entry["n_tried"],
        "n_trials": entry["n_trials"],
        "tailoring": chosen.tailoring.to_plain(),
        "forecast": entries.get("forecast"),
        "spent": entries["spent"],
    }
