"""``gptailor compare``: members, baselines, results and tailorings on the same unseen examples."""

import json
from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import AsJson, errors, path_argument, path_option, screen, show_grid
from gptailor.cli.faults import one_sentence
from gptailor.record.ladder_folder import ladder_of

__all__ = ["command"]


def command(  # noqa: PLR0913, PLR0917  # each is an option
    runs: Annotated[list[Path], path_argument("Folders of runs or ladders of one family.")],
    tailoring: Annotated[
        list[Path] | None, path_option("A tailoring.yaml to compare too; may be repeated.")
    ] = None,
    config: Annotated[
        Path | None, path_option("The tailor.yaml, if it names a metric of your own.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="The row that differences are from: its name, or 'best' (member).")
    ] = "best",
    split: Annotated[str, typer.Option(help="test, or selection.")] = "test",
    out: Annotated[
        Path | None,
        path_option("The page; in the first run if absent.", "--out", "-o"),
    ] = None,
    speed: Annotated[bool, typer.Option(help="Time the models in turns.")] = True,
    as_json: AsJson = False,
) -> None:
    """Put members, baselines, results and tailorings side by side on unseen examples."""
    from gptailor.app.compare_runs import compare
    from gptailor.report.comparison import PAGE, grids, write_comparison

    with one_sentence(runs[0], lambda: "comparing"):
        comparison = compare(
            [each for run in runs for each in ladder_of(run).values() or [run]],
            tailoring or (),
            config=config,
            against=against,
            split=split,
            with_speed=speed,
            on_message=lambda text: errors.print(text, style="dim"),
        )
    path = write_comparison(comparison, out or runs[0] / PAGE)
    if as_json:
        typer.echo(json.dumps(comparison.to_plain(), allow_nan=False))
        return
    for grid in grids(comparison):
        show_grid(grid)
    for note in comparison.notes:
        screen.print(f"note: {note}")
    screen.print(
        f"differences from {comparison.against}, on the {split} split, with 95 % intervals; "
        f"best member: {comparison.table.best}\nthe page: {path}"
    )
