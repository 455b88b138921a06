"""``gptailor init``: a commented tailor.yaml to start from."""

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import path_argument
from gptailor.errors import ConfigError
from gptailor.files.atomic import write_atomically

__all__ = ["command"]


def command(
    path: Annotated[Path, path_argument("The file to write.")] = Path("tailor.yaml"),
) -> None:
    """Write a commented tailor.yaml to start from."""
    if path.exists():
        raise ConfigError(f"{path}: exists already; name another file, or remove it first")
    text = resources.files("gptailor.cli").joinpath("tailor.yaml").read_text(encoding="utf-8")
    write_atomically(path, text)
    typer.echo(f"{path}: edit it, then run: gptailor check {path}")
