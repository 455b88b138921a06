"""``gptailor convert``: a search result of the published code, or a recipe, becomes a tailoring."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import errors, path_argument, path_option, screen
from gptailor.config import load_config
from gptailor.convert.published import convert_published
from gptailor.convert.published_file import read_published
from gptailor.core.tailoring import BASE, Tailoring, is_recipe
from gptailor.errors import ConfigError, TailoringError
from gptailor.files.atomic import write_atomically
from gptailor.files.yaml import read_yaml

__all__ = ["command"]


def command(  # noqa: PLR0913, PLR0917  # an option each
    file: Annotated[
        Path, path_argument("A search_config JSON, SMAC's runhistory.json, or a mergekit recipe.")
    ],
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
    config: Annotated[
        Path | None, path_option("The tailor.yaml with the members that a mergekit recipe names.")
    ] = None,
    out: Annotated[
        Path, path_option("The tailoring to write; - for stdout.", "--out", "-o")
    ] = Path("tailoring.yaml"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file.")] = False,
) -> None:
    """Turn a search result of the published code, or a mergekit recipe, into a tailoring."""
    notes: Sequence[str] = ()
    if file.suffix in (".yaml", ".yml") and file.is_file():
        tailoring = _of_recipe(file, config, layers)
    elif layers is None or not members:
        raise ConfigError("convert: give --layers and --members; the file names neither")
    else:
        found, chosen = read_published(file, trial=trial)
        names = [name.strip() for name in members.split(",")]
        tailoring, open_ = convert_published(
            found, n_layers=layers, members=names, compat=compat, where=str(file)
        )
        notes = (*chosen, *open_)
    text, to_stdout = tailoring.to_yaml(), str(out) == "-"
    if not to_stdout:
        _write(out, text, source=file, overwrite=overwrite)
    for note in notes:
        errors.print(f"note: {note}", style="dim")
    if to_stdout:
        typer.echo(text, nl=False)
        return
    n_merged = sum(spec.method is not None for spec in tailoring.layers)
    of_all = "" if layers is None else f" of {layers}"
    screen.print(f"{len(tailoring.layers)}{of_all} layers are kept, {n_merged} of them merged")
    screen.print(f"the tailoring: {out}")


def _of_recipe(file: Path, config: Path | None, layers: int | None) -> Tailoring:
    """The tailoring of a recipe; its members are those of the config."""
    from gptailor.app.tailoring_file import load_tailoring

    if not is_recipe(read_yaml(file, error_type=TailoringError)) or config is None:
        Tailoring.load(file)  # raises with what to do if it is a recipe, and where it is neither
        raise ConfigError(f"{file}: is a tailoring already")

    def n_layers() -> int:
        if layers is None:
            raise ConfigError("convert: give --layers; a recipe of whole models does not say it")
        return layers

    loaded = load_config(config)
    tailoring = load_tailoring(file, loaded, n_layers)
    if layers is not None:
        tailoring.check([BASE, *loaded.family.variants], layers)
    return tailoring


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
