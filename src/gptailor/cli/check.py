"""``gptailor check``: every fault at once, before anything heavy; and what a search will cost."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import errors, screen

__all__ = ["command"]


def command(
    config: Annotated[Path, typer.Argument(help="The tailor.yaml.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Tell every fault of config, family and tasks; then the plan: trials, tokens, memory, time."""
    from gptailor.assemble import assemble
    from gptailor.config import load_config
    from gptailor.forecast import forecast

    loaded = load_config(config)
    errors.print(f"loading the family and the tasks of {config} ...", style="dim")
    assembly = assemble(loaded)
    assembly.pool().close()  # its faults are told now
    plan, family = assembly.plan, assembly.family
    expected = forecast(assembly)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(expected)))
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
        counts = (parts.search.n_examples, parts.choose.n_examples, parts.report.n_examples)
        told = "search on {}, choose on {}, report on {} examples".format(*counts)
        screen.print(f"task:     {name}: {told}")
        for note in parts.notes:
            screen.print(f"          {note}")
    screen.print(f"rungs:    {', '.join(map(str, plan.rungs))} examples of each task")
    screen.print(
        f"search:   {loaded.search.name}, {expected.n_trials} trials of about "
        f"{expected.n_candidates} candidates; {expected.layer_tokens:,} layer-tokens in all, "
        f"{expected.shared:.0%} of the search saved by sharing"
    )
    screen.print(
        f"memory:   {expected.family_bytes / 2**20:,.0f} MiB of weights, "
        f"{expected.merged_bytes / 2**20:,.0f} MiB of merged layers at most; "
        f"{expected.peak_bytes / 2**20:,.0f} MiB in all"
    )
    minutes = expected.seconds / 60
    told = f"{minutes:.0f} min" if minutes >= 3 else f"{expected.seconds:.0f} s"
    screen.print(f"time:     about {told} at the speed measured here")
