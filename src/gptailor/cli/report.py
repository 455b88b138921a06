"""``gptailor report``: one self-contained HTML file about a run, or about a depth ladder."""

from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import path_argument, path_option
from gptailor.cli.faults import one_sentence

__all__ = ["command"]


def command(
    run: Annotated[Path, path_argument("The run's folder, or a depth ladder's.")],
    out: Annotated[
        Path | None, path_option("The file; report.html in the run if absent.", "--out", "-o")
    ] = None,
) -> None:
    """Write one HTML file about a run; it opens offline."""
    from gptailor.report import write_report

    with one_sentence(run, lambda: "writing the report", "mend the cause and write it again"):
        typer.echo(write_report(run, out))
