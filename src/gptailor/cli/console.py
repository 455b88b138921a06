"""What the commands share: the screen, arguments that are paths, and the option ``--json``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from gptailor.core.validation import usable_path
from gptailor.errors import ConfigError

if TYPE_CHECKING:
    from gptailor.report.grid import Grid

__all__ = ["AsJson", "ConfigPath", "errors", "path_argument", "path_option", "screen", "show_grid"]

screen = Console(highlight=False, markup=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def path_argument(about: str) -> Any:
    """Declare an argument that is a path, which is checked; typer types declarations as Any."""
    return typer.Argument(help=about, callback=_usable)


def path_option(about: str, *names: str) -> Any:
    """Declare an option that is a path, which is checked; typer types declarations as Any."""
    return typer.Option(*names, help=about, callback=_usable)


def show_grid(grid: "Grid") -> None:
    """Print a table with its title."""
    columns = [Column(head, overflow="fold") for head in grid.head]
    table = Table(*columns, box=SIMPLE_HEAD, show_lines=True, padding=(0, 1, 0, 0))
    for row in grid.rows:
        table.add_row(*row)
    screen.print(f"\n{grid.title}", table)


def _usable(given: Path | list[Path] | None) -> Path | list[Path] | None:
    """Refuse a path that can be no file's; whether a file is there is seen when it is read."""
    for path in [given] if isinstance(given, Path) else given or ():
        _refuse_unusable(path)
    return given


def _refuse_unusable(path: Path) -> None:
    try:
        usable_path(str(path))
        path.absolute()
    except ValueError as error:
        raise ConfigError(f"the path {error}") from None
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: the current folder is gone; go to one that is there, or give the whole path"
        ) from None
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise ConfigError(f"{path}: can't be used: {error.strerror}") from None


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
ConfigPath = Annotated[Path, path_argument("The tailor.yaml.")]
