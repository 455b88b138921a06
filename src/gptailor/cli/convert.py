"""``gptailor convert``: a search result of the published code becomes a tailoring."""

from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import errors, path_argument, path_option, screen
from gptailor.convert.published import convert_published
from gptailor.convert.published_file import read_published
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError
from gptailor.files.atomic import write_atomically

__all__ = ["command"]


def command(  # noqa: PLR0913, PLR0917  # an option each
    file: Annotated[Path, path_argument("A search_config JSON, or SMAC's runhistory.json.")],
    layers: Annotated[int | None, typer.Option(help="How many layers each member has.")] = None,
    members: Annotated[
        str, typer.Option(help="base, then the candidates in the search's order: base,a,b,c.")
    ] = "",
    compat: Annotated[
        bool, typer.Option("--compat", help="Take the base's layers as the published merge does.")
    ] = False,
    trial: Annotated[
        str | None, typer.Option(help="Which candidate, where the file holds several.")
    ] = None,
    out: Annotated[
        Path, path_option("The tailoring to write; - for stdout.", "--out", "-o")
    ] = Path("tailoring.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file.")] = False,
) -> None:
    """Turn a search result of the published code into a tailoring."""
    if file.suffix in (".yaml", ".yml") and file.is_file():
        Tailoring.load(file)  # raises with what to do if it is a mergekit recipe
        raise ConfigError(f"{file}: is a tailoring already")
    if layers is None or not members:
        raise ConfigError("convert: give --layers and --members; the file names neither")
    config, notes = read_published(file, trial=trial)
    tailoring, more = convert_published(
        config,
        n_layers=layers,
        members=[name.strip() for name in members.split(",")],
        compat=compat,
        where=str(file),
    )
    text, to_stdout = tailoring.to_yaml(), str(out) == "-"
    if not to_stdout:
        _write(out, text, source=file, overwrite=overwrite)
    for note in (*notes, *more):
        errors.print(f"note: {note}", style="dim")
    if to_stdout:
        typer.echo(text, nl=False)
        return
    n_merged = sum(spec.method is not None for spec in tailoring.layers)
    screen.print(f"{len(tailoring.layers)} of {layers} layers are kept, {n_merged} of them merged")
    screen.print(f"the tailoring: {out}")


def _write(out: Path, text: str, *, source: Path, overwrite: bool) -> None:
    """Write the file; replace another only if it has the same text, or with `overwrite`."""
    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file to write the tailoring into")
    if out.exists():
        if out.samefile(source):
            raise ConfigError(f"{out}: is the file that is read; name another with --out")
        if not overwrite and out.read_bytes() != text.encode():
            raise ConfigError(f"{out}: exists already; name another file, or allow --overwrite")
    write_atomically(out, text)
