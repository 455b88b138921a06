"""``gptailor explain``: why each layer of the result is what it is."""

import json
from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import AsJson, errors, path_argument, path_option, screen, show_grid
from gptailor.cli.faults import one_sentence
from gptailor.errors import ConfigError, unknown

__all__ = ["command"]


def command(
    run: Annotated[Path, path_argument("The folder of a run that has ended.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="Show this task's tables instead of the totals; may be repeated."),
    ] = None,
    config: Annotated[
        Path | None, path_option("The tailor.yaml, if it names a metric of your own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changes if one layer comes from elsewhere, is dropped or is put back."""
    from gptailor.record.run_record import read_run
    from gptailor.report.explanation import explanation, explanation_grid, explanation_sentence

    names = [goal.task for goal in read_run(run, with_evaluation=False).goals]
    for name in task or ():
        if name not in names:
            raise ConfigError(f"--task: {unknown('task', name, names)}")
    from gptailor.app.explain_run import explain  # slow: problems come first

    with one_sentence(run, lambda: "explaining"):
        record = explain(
            run, config=config, on_message=lambda text: errors.print(text, style="dim")
        )
    found = explanation(record)
    assert found is not None, "what was scored can be explained"
    if as_json:
        typer.echo(json.dumps(found.to_plain(), allow_nan=False))
        return
    asked = [name for name in found.of_tasks if name.rpartition(" ")[0] in (task or ())]
    for column in asked or found.totals:
        show_grid(explanation_grid(record, found, column))
    screen.print(explanation_sentence(found))
    relative = record.objective is not None and record.objective.is_relative
    hundredth = ": 0.01 is a hundredth of its score" if relative else ""
    screen.print(
        f"differences from the result on {found.n_examples} test examples, in pairs, with 95 % "
        "intervals that all hold at once (sup-t bands over all changes; of a task over all changes "
        f"and tasks);\na loss is relative to the base{hundredth}; "
        "empty: the layer is so already\nin the report: gptailor report " + str(run)
    )
    for note in found.notes:
        screen.print(f"note: {note}")
