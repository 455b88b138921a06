"""``gptailor sample``: what base, best member, last_n and result write, side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import AsJson, errors, path_argument, path_option, screen, show_grid
from gptailor.cli.faults import one_sentence

__all__ = ["command"]


def command(
    run: Annotated[Path, path_argument("The folder of a run that has ended.")],
    config: Annotated[
        Path | None, path_option("The tailor.yaml, if it names a metric of your own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Let base, best member, last layers cut and result write; show texts and scores together."""
    from gptailor.app.sample_run import sample
    from gptailor.report.writing import writing

    with one_sentence(run, lambda: "sampling"):
        record = sample(run, config=config, on_message=lambda text: errors.print(text, style="dim"))
    found = writing(record)
    assert found is not None, "what was written can be shown"
    assert found.scores is not None, "what was written was scored"
    assert record.samples is not None
    if as_json:
        typer.echo(json.dumps(record.samples.model_dump(), allow_nan=False))
        return
    show_grid(found.scores)
    show_grid(found.faults)
    for prompt, texts in found.texts:
        screen.print(f"after {prompt!r}:")
        for name, text in texts:
            screen.print(f"  {name}: {' '.join(text.split()) or '(nothing)'}")
        screen.print()
    screen.print(found.about, *found.notes, sep="\n")
    screen.print(f"in the report: gptailor report {run}")
