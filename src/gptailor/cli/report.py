"""``gptailor report``: one self-contained HTML file about a run."""

from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import named

__all__ = ["command"]


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder.", callback=named)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The file; report.html in the run if absent.", callback=named
        ),
    ] = None,
) -> None:
    """Write one HTML file about a run; it opens offline."""
    from gptailor.app.run_folder import Run

    typer.echo(Run(run).report(out))
