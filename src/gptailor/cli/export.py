"""``gptailor export``: a tailoring becomes a stock checkpoint."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import errors, screen
from gptailor.errors import ConfigError

__all__ = ["command"]


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder, or a tailor.yaml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The checkpoint's folder.")],
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial's number; the chosen one if absent.")
    ] = None,
    tailoring: Annotated[
        Path | None, typer.Option(help="A tailoring.yaml instead of a trial.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; the search's own if absent.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace a folder that is not ours.")] = False,
) -> None:
    """Write the best model as a stock checkpoint that any tool loads."""
    from gptailor.assemble import load_members
    from gptailor.export import card_facts, export_checkpoint, model_card
    from gptailor.header import changes
    from gptailor.machine import DTYPES
    from gptailor.provenance import Provenance, find_provenance

    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"--dtype: must be one of {', '.join(DTYPES)}, not {dtype!r}")
    found: Provenance = find_provenance(run, trial=trial, tailoring=tailoring)
    errors.print("loading the family ...", style="dim")
    family = load_members(found.config)
    family.check(found.tailoring)
    if found.header is not None:
        faults = changes(found.header, family.digests, {}, where=run)
        if faults:
            raise ConfigError(faults)
    facts = dataclasses.replace(
        card_facts(family, found.tailoring, out.resolve().name),
        scores=found.rows,
        scores_note=found.rows_note,
        n_tried=found.n_tried,
    )
    export_checkpoint(
        family,
        found.tailoring,
        out,
        card=model_card(facts),
        dtype=None if dtype is None else DTYPES[dtype],
        overwrite=overwrite,
        keep=[run, *([tailoring] if tailoring is not None else []), *found.files],
    )
    before, after = facts.parameters or (0, 0)
    screen.print(
        f"{len(found.tailoring.layers)} of {family.n_layers} layers, {after:,} of {before:,} "
        f"parameters ({1 - after / before:.1%} fewer); reloaded with stock transformers and equal "
        "to what was searched"
    )
    screen.print(f"the checkpoint: {out}")
