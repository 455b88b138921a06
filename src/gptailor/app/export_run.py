"""Export a run's model or a tailoring: load the members, check them, write the format asked for."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gptailor.app.header import model_facts
from gptailor.app.inputs import load_members
from gptailor.app.selection import Provenance, find_provenance
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError
from gptailor.export import card_facts, export_checkpoint, model_card
from gptailor.export.gguf.writer import export_gguf
from gptailor.export.mergekit.recipe import export_recipe
from gptailor.export.options import ExportOptions
from gptailor.family import Family
from gptailor.record.compatibility import changed_model, changes

__all__ = ["export"]


def export(  # noqa: PLR0913  # what may be said of an export
    run: Path,
    out: Path,
    options: ExportOptions,
    *,
    trial: int | None = None,
    tailoring: Path | None = None,
    overwrite: bool = False,
    family: Family | None = None,
    on_loading: Callable[[], None] = lambda: None,
) -> tuple[Family, Tailoring]:
    """Write a model for other tools to load.

    Args:
        run: A run's folder; or a config, with `tailoring`.
        out: A folder for ``hf``; a file for the other formats.
        options: The format, and what is asked of it.
        trial: A trial's number; the chosen one if absent.
        tailoring: A tailoring.yaml instead of a trial.
        overwrite: Replace a folder or file that no export wrote.
        family: The members, if they are in no files.
        on_loading: Called before the members are loaded.

    Returns:
        The members and the tailoring that were exported.

    Raises:
        UserError: It can't be written as asked, or the members changed since the search.
    """
    found = find_provenance(run, trial=trial, tailoring=tailoring)
    on_loading()
    family = family or load_members(found.config)
    family.check(found.tailoring)
    if found.header is not None:
        problems = changes(found.header, family.digests, {}, where=run)
        problems += changed_model(found.header, model_facts(family), run)
        if problems:
            raise ConfigError(problems)
    keep = [run, *([tailoring] if tailoring is not None else []), *found.files]
    more: dict[str, Any] = {"overwrite": overwrite, "keep": keep}
    if options.format == "gguf":
        export_gguf(family, found.tailoring, out, dtype=options.gguf_dtype, **more)
    elif options.format == "mergekit":
        export_recipe(family, found.tailoring, out, **more)
    else:
        card = _card(family, found, out)
        export_checkpoint(family, found.tailoring, out, card=card, **options.hf_arguments, **more)
    return family, found.tailoring


def _card(family: Family, found: Provenance, out: Path) -> str:
    """The model card, with the scores that the run recorded."""
    facts = dataclasses.replace(
        card_facts(family, found.tailoring, out.resolve().name),
        scores=found.scores,
        scores_note=found.scores_note,
        n_tried=found.n_tried,
    )
    return model_card(facts)
