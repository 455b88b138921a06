"""``gptailor search``: run a study, or go on with it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from gptailor.cli.console import AsJson, ConfigPath, errors, path_option, screen
from gptailor.cli.progress_bar import progress_display
from gptailor.record.ranking import BEST

if TYPE_CHECKING:
    from gptailor.app.run_folder import Run
    from gptailor.record.entries import Costs

__all__ = ["command"]


def command(
    config: ConfigPath,
    out: Annotated[
        Path | None, path_option("The run's folder; runs/NAME beside the config if absent.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Search for the best smaller model; the same command goes on after a stop or a kill."""
    try:
        run = _run(config, out)
    except KeyboardInterrupt:
        errors.print("stopped; what was scored is recorded: run the same command to go on")
        raise typer.Exit(130) from None
    record, chosen = run.record, run.record.chosen
    assert chosen is not None, "a search that ends has chosen"
    if as_json:
        result = chosen.model_dump(include={"number", "n_tried", "n_trials"})
        result |= {"run": str(run.folder), "tailoring": run.best.tailoring.to_plain()}
        costs = {"forecast": record.forecast, "spent": record.spent}
        result |= {key: None if cost is None else cost.to_plain() for key, cost in costs.items()}
        typer.echo(json.dumps(result))
        return
    screen.print(
        f"{chosen.n_tried} candidates of {record.header.n_kept} out of "
        f"{record.header.family.n_layers} layers tried, in {chosen.n_trials} trials; "
        f"trial {chosen.number} is the best"
    )
    screen.print(f"the run:       {run.folder}")
    screen.print(f"the tailoring: {run.folder / BEST}")
    screen.print(f"next:          gptailor export {run.folder} -o DIR")
    if record.forecast is not None:
        screen.print(_costs(record.forecast, record.spent))


def _costs(forecast: "Costs", spent: "Costs | None") -> Table:
    """Predicted and actual costs, side by side."""
    from gptailor.report.words import cost_rows

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="", pad_edge=False)
    for name in ("cost", "predicted", "actual", "off by"):
        table.add_column(name, justify="left" if name == "cost" else "right")
    for row in cost_rows(forecast, spent):
        table.add_row(*row)
    return table


def _run(path: Path, out: Path | None) -> "Run":
    """Search with notes and progress on stderr."""
    from gptailor.app.open_search import open_search
    from gptailor.app.settings import run_folder, settings_of

    def loading() -> None:
        errors.print(f"loading the family and the tasks of {path} ...", style="dim")

    folder = out or run_folder(path)
    with open_search(settings_of(path), folder, on_loading=loading) as opened:
        for note in opened.notes:
            errors.print(f"note: {note}", style="dim")
        with progress_display(errors) as show:
            return opened.run(show)
