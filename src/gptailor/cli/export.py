"""``gptailor export``: a tailoring becomes a stock checkpoint, a GGUF file or a recipe."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gptailor.cli.console import errors, named, screen
from gptailor.errors import ConfigError

if TYPE_CHECKING:
    from gptailor.app.selection import Provenance
    from gptailor.family import Family

__all__ = ["command"]


def command(  # noqa: PLR0913, PLR0917  # each is an option
    run: Annotated[
        Path, typer.Argument(help="The run's folder, or a tailor.yaml.", callback=named)
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The checkpoint's folder; else a file.", callback=named),
    ],
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial's number; the chosen one if absent.")
    ] = None,
    tailoring: Annotated[
        Path | None, typer.Option(help="A tailoring.yaml instead of a trial.", callback=named)
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", help="hf, gguf (llama.cpp) or mergekit (a recipe).")
    ] = "hf",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="hf: float32, bfloat16, float16; the search's own if absent. "
            "gguf: f16 (if absent), bf16, q8_0, f32."
        ),
    ] = None,
    shard_size: Annotated[
        str | None, typer.Option(help="hf: the most that one file holds; 5GB if absent.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace what is not ours.")] = False,
) -> None:
    """Write the best model for other tools to load."""
    from gptailor.app.assemble import load_members
    from gptailor.app.header import model_facts
    from gptailor.app.selection import find_provenance
    from gptailor.export.options import ExportOptions
    from gptailor.record.compatibility import changed_model, changes

    options = ExportOptions.of(format_, out, dtype=dtype, shard_size=shard_size)
    found = find_provenance(run, trial=trial, tailoring=tailoring)
    errors.print("loading the family ...", style="dim")
    family = load_members(found.config)
    family.check(found.tailoring)
    if found.header is not None:
        problems = changes(found.header, family.digests, {}, where=run)
        problems += changed_model(found.header, model_facts(family), run)
        if problems:
            raise ConfigError(problems)
    kept = [run, *([tailoring] if tailoring is not None else []), *found.files]
    more: dict[str, Any] = {"overwrite": overwrite, "keep": kept}
    if options.format == "gguf":
        from gptailor.export.gguf.writer import export_gguf

        export_gguf(family, found.tailoring, out, dtype=options.gguf_dtype, **more)
        told = "read back and equal to what was made\nthe GGUF file"
    elif options.format == "mergekit":
        from gptailor.export.mergekit.recipe import export_recipe

        export_recipe(family, found.tailoring, out, **more)
        told = "told as a recipe\nthe recipe for mergekit"
    else:
        _checkpoint(family, found, out, options.hf_arguments | more)
        rounded = options.dtype not in (None, str(family.dtype).removeprefix("torch."))
        of_what = f" in {options.dtype}" if rounded else ""
        told = f"reloaded with stock transformers and equal to what was searched{of_what}"
        told += "\nthe checkpoint"
    _tell(family, found, told, out)


def _checkpoint(family: "Family", found: "Provenance", out: Path, more: dict[str, Any]) -> None:
    from gptailor.export import card_facts, export_checkpoint, model_card

    facts = dataclasses.replace(
        card_facts(family, found.tailoring, out.resolve().name),
        scores=found.rows,
        scores_note=found.rows_note,
        n_tried=found.n_tried,
    )
    export_checkpoint(family, found.tailoring, out, card=model_card(facts), **more)


def _tell(family: "Family", found: "Provenance", told: str, out: Path) -> None:
    from gptailor.export import card_facts

    before, after = card_facts(family, found.tailoring, "").parameters or (0, 0)
    screen.print(
        f"{len(found.tailoring.layers)} of {family.n_layers} layers, {after:,} of {before:,} "
        f"parameters ({1 - after / before:.1%} fewer); {told}: {out}"
    )
