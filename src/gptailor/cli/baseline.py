"""``gptailor baseline``: published ways to choose the cuts, as a run like any other."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table

from gptailor.cli.console import AsJson, ConfigPath, path_option, screen
from gptailor.cli.search import plain_result, run_shown
from gptailor.core.tailoring import BASE
from gptailor.errors import ConfigError
from gptailor.files.yaml import parse_yaml
from gptailor.record.ranking import BEST

if TYPE_CHECKING:
    from gptailor.app.run import Run
    from gptailor.record.run_record import RunRecord

__all__ = ["command"]


def command(  # noqa: PLR0913, PLR0917  # what the options are
    names: Annotated[str, typer.Argument(help="A baseline, several with commas, or all.")],
    config: ConfigPath,
    out: Annotated[
        Path | None, path_option("The run's folder; runs/NAME-BASELINES-MEMBER beside the config.")
    ] = None,
    member: Annotated[str, typer.Option(help="Whose layers are cut.")] = BASE,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**32 - 1, help="Of the draws; the config's if absent.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="BASELINE.KEY=VALUE, instead of a default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Cut layers as a paper does it; the same command goes on after a stop or a kill."""
    from gptailor.app.baseline_settings import baseline_settings
    from gptailor.app.settings import run_folder, settings_of

    options: dict[str, dict[str, object]] = {}
    for text in option or ():
        name, key, value = _option(text)
        if key in options.get(name, {}):
            raise ConfigError(f"--option {name}.{key}: is given twice; give it once")
        options.setdefault(name, {})[key] = value
    settings = baseline_settings(
        settings_of(config), names, member=member, seed=seed, options=options
    )
    usual = run_folder(config)
    label = f"{names.replace(',', '-')}-{member}"  # beside a run, and inside a ladder
    folder = out or (usual / label if settings.ladder else usual.with_name(f"{usual.name}-{label}"))
    runs = run_shown(settings, folder)
    if as_json:
        plain = [plain_result(r) | {"baselines": _rows(r.record)} for r in runs.values()]
        typer.echo(json.dumps(plain if settings.ladder else plain[0]))
        return
    for run in runs.values():
        _show(run)


def _show(run: "Run") -> None:
    """The baselines of one run, and what to do with it."""
    screen.print(_drawn(_rows(run.record)))
    screen.print(
        "loss: relative to the base, on the test split; chosen on the selection split: "
        f"trial {run.best.number}, {run.best.proposal.origin}"
    )
    screen.print(f"the run:       {run.folder}")
    screen.print(f"the tailoring: {run.folder / BEST}")
    screen.print(f"next:          gptailor export {run.folder} -o DIR")


def _option(text: str) -> tuple[str, str, object]:
    """The baseline, the key and the value of ``sleb.n_tokens=4096``."""
    place, equals, value = text.partition("=")
    name, dot, key = place.partition(".")
    if not (equals and dot and name and key):
        raise ConfigError(
            f"--option {text}: must be BASELINE.KEY=VALUE, such as sleb.n_tokens=4096"
        )
    return name, key, parse_yaml(value, where=f"--option {text}")


def _rows(record: "RunRecord") -> list[dict[str, Any]]:
    """A row a baseline: its trial, its cuts, its loss on the test split and its costs."""
    from gptailor.core.objective import Objective
    from gptailor.report.baselines import cut_layers

    n_layers = record.header.family.n_layers
    objective = Objective(record.goals, record.on_test[BASE])
    numbers = {trial.tailoring: trial.number for trial in record.trials}
    rows = []
    for entry in record.baselines.values():
        number, failure, scores, cuts = None, entry.failure, None, list[int]()
        if entry.tailoring is not None:
            number = numbers[entry.tailoring]
            cuts = cut_layers(entry.tailoring, n_layers)
            failure, scores = record.trials[number].failure, record.on_test.get(number)
        rows.append(
            entry.to_plain()
            | {
                "number": number,
                "failure": failure,
                "cuts": cuts,
                "loss": None if scores is None else objective.scalar(scores),
            }
        )
    return rows


def _drawn(rows: list[dict[str, Any]]) -> Table:
    """The rows for people."""
    numbers = [Column(name, justify="right") for name in ("loss", "seconds", "layer-tokens")]
    table = Table(
        Column("baseline", overflow="fold"),  # a name is to be copied
        "member",
        Column("layers cut", overflow="fold"),
        *numbers,
        box=None,
        padding=(0, 2, 0, 0),
        header_style="",
        pad_edge=False,
    )
    for row in rows:
        cuts = row["failure"] or ", ".join(map(str, row["cuts"]))
        loss = "" if row["loss"] is None else f"{row['loss']:+.4f}"
        costs = (f"{row['seconds']:.1f}", f"{row['alone_layer_tokens']:,}")
        table.add_row(row["name"], row["member"], cuts, loss, *costs)
    return table
