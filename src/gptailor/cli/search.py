"""``gptailor search``: run a study, or go on with it."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from gptailor.cli.console import errors, screen
from gptailor.cli.progress import ProgressDisplay

__all__ = ["command"]


def command(
    config: Annotated[Path, typer.Argument(help="The tailor.yaml.")],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; runs/NAME beside the config if absent.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search for the best smaller model; the same command goes on after a stop or a kill."""
    from gptailor.assemble import assemble, open_study, run_folder
    from gptailor.config import load_config
    from gptailor.study import Journal
    from gptailor.study.results import write_results

    loaded = load_config(config)
    folder = out or run_folder(config)
    with Journal(folder) as journal:
        errors.print(f"loading the family and the tasks of {config} ...", style="dim")
        assembly = assemble(loaded)
        for note in (*assembly.family.notes, *_task_notes(assembly)):
            errors.print(f"note: {note}", style="dim", markup=False)
        with ProgressDisplay(errors) as display:
            study = open_study(assembly, journal, on_progress=display.show)
            try:
                chosen = study.run()
            except KeyboardInterrupt:
                errors.print("stopped; what was scored is recorded: run the same command to go on")
                raise typer.Exit(130) from None
        write_results(folder, chosen, study.front(), study.objective)
        entry = list(journal.of("chosen"))[-1]
    if as_json:
        typer.echo(json.dumps(_result(folder, chosen, entry)))
        return
    kept, n_layers = len(chosen.tailoring.layers), assembly.family.n_layers
    screen.print(
        f"{entry['n_tried']} candidates tried in {entry['n_trials']} trials; trial {chosen.number} "
        f"is the best: {kept} of {n_layers} layers"
    )
    screen.print(f"the run:       {folder}")
    screen.print(f"the tailoring: {folder / 'best.yaml'}")
    screen.print(f"next:          gptailor export {folder} -o DIR")


def _task_notes(assembly: Any) -> list[str]:
    return [note for parts in assembly.tasks.values() for note in parts.notes]


def _result(folder: Path, chosen: Any, entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": str(folder),
        "number": chosen.number,
        "n_tried": entry["n_tried"],
        "n_trials": entry["n_trials"],
        "tailoring": chosen.tailoring.to_plain(),
    }
