"""``gptailor heal``: a short training of a finished model on texts of one's own."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gptailor.cli.console import AsJson, errors, path_argument, path_option, screen
from gptailor.cli.faults import one_sentence
from gptailor.errors import ConfigError, UserError

__all__ = ["command"]

_TENTHS = 10  # lines of progress where there is no terminal


def command(  # noqa: PLR0913, PLR0917  # each is an option
    model: Annotated[Path, path_argument("The exported folder, or a run.")],
    texts: Annotated[
        list[Path], path_option("JSON lines with a key text, or plain text; may be repeated.")
    ],
    teacher: Annotated[
        str, typer.Option(help="A member's name (with a run), a folder, a hub id or a GGUF file.")
    ],
    out: Annotated[Path, path_option("The healed checkpoint's folder.", "--out", "-o")],
    run: Annotated[Path | None, path_option("The run that the folder came from.")] = None,
    layers: Annotated[
        str, typer.Option(help="all, or cuts: the layers before and after each cut.")
    ] = "all",
    tokens: Annotated[int, typer.Option(min=2, help="Trained on in all.")] = 150_000,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a row.")] = 256,
    batch_tokens: Annotated[int, typer.Option(min=2, help="Tokens of a step.")] = 1024,
    rank: Annotated[int, typer.Option(min=1, max=1024, help="Of the LoRA matrices.")] = 16,
    learning_rate: Annotated[float, typer.Option(min=1e-9, max=1.0, help="The highest.")] = 3e-4,
    kl_weight: Annotated[
        float, typer.Option(min=0.0, max=1e6, help="Of the divergence from the teacher.")
    ] = 1.0,
    next_token_weight: Annotated[
        float, typer.Option(min=0.0, max=1e6, help="Of the next token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of texts and matrices.")] = 0,
    overwrite: Annotated[bool, typer.Option(help="Replace what is not ours.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a finished model for a short time; the same command goes on after a stop."""
    if layers not in ("all", "cuts"):
        raise ConfigError(f"--layers: must be all or cuts, not {layers!r}")
    if not kl_weight and not next_token_weight:
        raise ConfigError("--kl-weight, --next-token-weight: both are 0; nothing is to be learnt")
    if batch_tokens < length:
        raise ConfigError(
            f"--batch-tokens: is {batch_tokens:,}, but a row alone has {length:,} tokens (--length)"
        )
    try:
        from gptailor.app.heal_model import heal, work_folder
        from gptailor.heal.distillation import Training
    except ModuleNotFoundError as error:
        raise UserError(
            f"heal needs {error.name}, which is not installed; run: pip install 'gptailor[heal]'"
        ) from None
    training = Training(
        n_tokens=tokens,
        length=length,
        batch_tokens=batch_tokens,
        rank=rank,
        learning_rate=learning_rate,
        kl_weight=kl_weight,
        next_token_weight=next_token_weight,
        seed=seed,
    )
    again = "mend the cause and run the same command to go on"
    try:
        with one_sentence(work_folder(out), lambda: "healing", again), _progress() as show:
            facts = heal(
                model,
                texts,
                teacher,
                out,
                training=training,
                at_cuts=layers == "cuts",
                run=run,
                overwrite=overwrite,
                on_message=lambda text: errors.print(text, style="dim"),
                on_step=show,
            )
    except KeyboardInterrupt:
        errors.print("stopped; run the same command to go on from the last checkpoint")
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(facts.to_plain(), allow_nan=False))
        return
    given = facts.given_back
    share = "" if given is None else f": {given:.0%} of what it lacked of the teacher is given back"
    screen.print(
        f"on {facts.n_held_out:,} tokens of texts that it was not trained on it has "
        f"{facts.after:.3f} nats a token, before {facts.before:.3f}, the teacher "
        f"{facts.teachers:.3f}{share}\nthe healed checkpoint: {out}"
    )


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Draw a bar on a terminal; elsewhere print a line for each tenth."""
    columns = (TextColumn("healing"), BarColumn(bar_width=24), MofNCompleteColumn())
    bar = Progress(*columns, TimeRemainingColumn(), console=errors, disable=not errors.is_terminal)
    task = bar.add_task("healing", total=None)

    def show(step: int, steps: int) -> None:
        bar.start()  # does nothing from the second time on
        bar.update(task, completed=step, total=steps)
        if not errors.is_terminal and step * _TENTHS // steps > (step - 1) * _TENTHS // steps:
            errors.print(f"healing: {step}/{steps} steps")

    try:
        yield show
    finally:
        bar.stop()
