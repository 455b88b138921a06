"""``gptailor check``: every error at once, before anything heavy; and what a search will cost."""

import dataclasses
import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptailor.cli.console import errors, named, screen

if TYPE_CHECKING:
    from gptailor.record.entries import ForecastEntry
    from gptailor.workers.pool import WorkerSetup

__all__ = ["command"]


def command(
    config: Annotated[Path, typer.Argument(help="The tailor.yaml.", callback=named)],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Tell every error of config, family and tasks; then the plan: trials, tokens, memory, time."""
    from gptailor.config import load_config
    from gptailor.config.schema import PluginConfig

    loaded = load_config(config)
    errors.print(f"loading the family and the tasks of {config} ...", style="dim")
    from gptailor.app.assemble import (  # slow: the config's problems come first
        assemble,
        probe_workers,
    )
    from gptailor.engine.device import device_of

    options = {k: v for k, v in loaded.workers.options.items() if k == "group_size"}
    here = PluginConfig(name="local", options=options)
    with closing(probe_workers(loaded)) as pool:
        spread = pool.setup  # what is wrong with workers is told now
    assembly = assemble(loaded.model_copy(update={"workers": here}))  # as one worker would
    plan, family = assembly.plan, assembly.family
    expected = assembly.forecast(spread)
    if as_json:
        workers = None if spread is None else dataclasses.asdict(spread)
        typer.echo(json.dumps(expected.model_dump(exclude={"kind"}) | {"workers": workers}))
        return
    for note in family.notes:
        screen.print(f"note: {note}")
    screen.print(
        f"family:   {', '.join(family.members)}; {plan.n_layers} layers, "
        f"{family.parameters / 1e6:,.1f} M parameters, {str(family.dtype).removeprefix('torch.')}"
    )
    cut = sum(sorted(family.layer_parameters)[: plan.n_removed])
    screen.print(
        f"remove:   {plan.n_removed} layers, {cut / family.parameters:.1%} of the parameters"
    )
    for name, parts in assembly.tasks.items():
        counts = (parts.search.n_examples, parts.selection.n_examples, parts.test.n_examples)
        told = "{} search, {} selection and {} test examples".format(*counts)
        screen.print(f"task:     {name}: {told}")
        for note in parts.notes:
            screen.print(f"          {note}")
    screen.print(f"rungs:    {', '.join(map(str, plan.rungs))} examples of each task")
    screen.print(
        f"search:   {loaded.search.name}, {expected.n_trials} trials of about "
        f"{expected.n_candidates} candidates; {expected.layer_tokens:,} layer-tokens in all, "
        f"{expected.shared:.0%} of the search saved by sharing"
    )
    _show_costs(expected, spread, device_of(loaded.engine.device).partition(":")[0])


def _show_costs(expected: "ForecastEntry", spread: "WorkerSetup | None", device: str) -> None:
    """Memory and time; with workers, on which assumption."""
    each, pace = "", "at the speed measured here"
    if spread is not None:
        each = f" for each of {spread.n_workers} workers, and the weights once more here"
        pace = f"with {spread.n_workers} workers as fast as this machine with {spread.threads} "
        pace += "threads each" + (", who share its cores" if spread.crowding > 1 else "")
        pace += "; their start comes on top"
    screen.print(
        f"memory:   {expected.family_bytes / 2**20:,.0f} MiB of weights, "
        f"{expected.merged_bytes / 2**20:,.0f} MiB of merged layers at most; "
        f"{expected.peak_bytes / 2**20:,.0f} MiB in all{each}"
    )
    minutes = expected.seconds / 60
    told = f"about {minutes:.0f} min" if minutes >= 3 else f"about {expected.seconds:.0f} s"
    if spread is not None and spread.device != device:
        told, pace = (
            "not known",
            f"for workers run on {spread.device}, and this machine on {device}",
        )
    screen.print(f"time:     {told} {pace}")
