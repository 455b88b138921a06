"""``gptailor check``: every problem at once, and what a search will cost."""

import dataclasses
import json
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

import typer

from gptailor.cli.console import AsJson, ConfigPath, errors, screen
from gptailor.study.plan import roughly

if TYPE_CHECKING:
    from gptailor.app.assemble import Assembly
    from gptailor.record.entries import ForecastEntry
    from gptailor.workers.pool import WorkerSetup

__all__ = ["command"]


def command(config: ConfigPath, as_json: AsJson = False) -> None:
    """Check config, family and tasks for problems, and predict trials, tokens, memory and time."""
    from gptailor.config import load_config
    from gptailor.config.sections import PluginConfig
    from gptailor.report.words import count

    loaded = load_config(config)
    members, tasks = 1 + len(loaded.family.variants), count(len(loaded.tasks), "task")
    what = f"loading {count(members, 'member')} and {tasks} of {config}, then timing some layers"
    errors.print(f"{what} ...", style="dim")
    from gptailor.app.assemble import assemble, open_pool  # slow
    from gptailor.app.ladder import forecasts
    from gptailor.engine.device import device_of

    options = {k: v for k, v in loaded.workers.options.items() if k == "group_size"}
    here = PluginConfig(name="local", options=options)
    with closing(open_pool(loaded)) as pool:  # problems with workers are found now
        setup = pool.setup
    # as one worker would
    assembly = assemble(loaded.model_copy(update={"workers": here}), runs=False)
    texts = loaded.calibration.texts  # a search without repairs does not read them
    notes = () if texts is None else assembly.repairs.calibration.notes
    device = device_of(loaded.engine.device).partition(":")[0]
    if not as_json:
        _show_plan(assembly, notes)
    plain = []
    for step, expected in forecasts(assembly, setup):
        workers = None if setup is None else dataclasses.asdict(setup)
        depth = {"remove": step.plan.n_removed, "target": step.target or None}
        plain.append(expected.model_dump(exclude={"kind"}) | {"workers": workers} | depth)
        if not as_json:
            _show_search(step, expected)
            _show_costs(expected, setup, device, fits=step.plan.n_steps > 0)
    if as_json:
        typer.echo(json.dumps(plain if loaded.ladder else plain[0]))


def _show_plan(assembly: "Assembly", notes: Sequence[str]) -> None:
    """Notes, the family, the tasks and the rungs."""
    plan, family = assembly.plan, assembly.family
    for note in (*family.notes, *notes):
        screen.print(f"note: {note}")
    screen.print(
        f"family:   {', '.join(family.members)}; {plan.n_layers} layers, "
        f"{family.parameters / 1e6:,.1f} M parameters, {str(family.dtype).removeprefix('torch.')}"
    )
    for name, splits in assembly.tasks.items():
        counts = [task.n_examples for task in splits.by_name.values()]
        examples = "{} search, {} selection and {} test examples".format(*counts)
        screen.print(f"task:     {name}: {examples}", *splits.notes, sep="\n          ")
    writing = [name for name, splits in assembly.tasks.items() if splits.search.writes]
    if writing:
        screen.print(
            f"writing:  the answers of {', '.join(writing)} count as if each were as long as it "
            "may be (max_gen_toks); tokens and time are at most these"
        )
    screen.print(f"rungs:    {', '.join(map(str, plan.rungs))} examples of each task")


def _show_search(assembly: "Assembly", expected: "ForecastEntry") -> None:
    """What one search cuts, and how much of it there is."""
    from gptailor.app.ladder import PART
    from gptailor.report.words import count

    plan, family = assembly.plan, assembly.family
    if assembly.target:
        screen.print(f"target:   {assembly.target}")
    part = f", with {PART:.0%} of the budget" if assembly.config.ladder else ""
    share = sum(sorted(family.layer_parameters)[: plan.n_removed]) / family.parameters
    screen.print(f"remove:   {plan.n_removed} layers, {share:.1%} of the parameters{part}")
    if plan.n_steps:
        steps, layer_tokens = count(plan.n_steps, "step"), assembly.slopes.layer_tokens
        screen.print(
            f"fit:      merging coefficients, in {steps} by gradients, of "
            f"{plan.n_steps * layer_tokens:,} layer-tokens"
        )
    screen.print(
        f"search:   {assembly.config.search.name}, {count(expected.n_trials, 'trial')} of about "
        f"{count(expected.n_candidates, 'candidate')}; {expected.layer_tokens:,} layer-tokens in "
        f"all, {expected.shared:.0%} of the search saved by sharing"
    )


def _show_costs(
    expected: "ForecastEntry", setup: "WorkerSetup | None", device: str, *, fits: bool
) -> None:
    """Memory and time, and what they assume where other processes evaluate."""
    each, assumed = "", "at the speed measured here"
    if setup is not None:
        each = f" for each of {setup.n_workers} workers, and the weights once more here"
        assumed = f"with {setup.n_workers} workers as fast as this machine with {setup.threads} "
        assumed += "threads each" + (", who share its cores" if setup.crowding > 1 else "")
        assumed += "; their start comes on top"
    screen.print(
        f"memory:   {expected.family_bytes / 2**20:,.0f} MiB of weights, "
        f"{expected.merged_bytes / 2**20:,.0f} MiB of merged layers at most; "
        f"{expected.peak_bytes / 2**20:,.0f} MiB in all{each}"
    )
    time = roughly(expected.seconds)
    if setup is not None and setup.device != device:
        time = "not known"
        assumed = f"because workers run on {setup.device}, and this machine on {device}"
    elif setup is not None and fits and setup.device != "cpu":
        time = "not known"
        assumed = "because merging coefficients are fitted on the CPU, before the workers begin"
    screen.print(f"time:     {time} {assumed}")
