"""``gptailor export``: a tailoring becomes a stock checkpoint, a GGUF file or a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from gptailor.cli.console import errors, path_argument, path_option, screen
from gptailor.cli.faults import one_sentence
from gptailor.core.plugins import import_modules
from gptailor.errors import ConfigError
from gptailor.record.ladder_folder import run_at

__all__ = ["command"]


def command(  # noqa: PLR0913, PLR0917  # each is an option
    run: Annotated[Path, path_argument("The run's folder, or a tailor.yaml.")],
    out: Annotated[
        Path | None,
        path_option("The checkpoint's folder; else a file. With --push RUN/model.", "--out", "-o"),
    ] = None,
    trial: Annotated[
        int | None, typer.Option(min=0, help="A trial's number; the chosen one if absent.")
    ] = None,
    tailoring: Annotated[Path | None, path_option("A tailoring.yaml instead of a trial.")] = None,
    format_: Annotated[
        str, typer.Option("--format", help="hf, gguf (llama.cpp) or mergekit (a recipe).")
    ] = "hf",
    remove: Annotated[
        int | None, typer.Option(min=1, help="Of a depth ladder: how many layers are cut.")
    ] = None,
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
    push: Annotated[
        str | None, typer.Option(help="hf: upload it to this repository, too; private if new.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace what is not ours.")] = False,
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", help="A module with a merge method that the run names."),
    ] = None,
) -> None:
    """Write the best model for other tools to load."""
    from gptailor.export.options import ExportOptions

    import_modules(imports or [])
    run = run_at(run, remove)
    if out is None:
        if push is None or not run.is_dir():
            raise ConfigError("export: name what to write with --out")
        out = run / "model"
    options = ExportOptions.of(
        format_, out, dtype=dtype, shard_size=shard_size, push=push, public=public
    )
    from gptailor.app.export_run import export  # slow: problems first
    from gptailor.export import card_facts
    from gptailor.export.push import open_repository, push_folder

    repository = None if push is None else open_repository(push, overwrite=overwrite)
    with one_sentence(run, lambda: "exporting"):
        family, exported = export(
            run,
            out,
            options,
            trial=trial,
            tailoring=tailoring,
            overwrite=overwrite,
            on_message=lambda text: errors.print(text, style="dim"),
        )
    rounded = options.dtype not in (None, str(family.dtype).removeprefix("torch."))
    dtype_note = f" in {options.dtype}" if rounded else ""
    sentence = {
        "gguf": "read back and equal to what was made\nthe GGUF file",
        "mergekit": "written as a recipe\nthe recipe for mergekit",
        "hf": "reloaded with stock transformers and equal to what was searched"
        f"{dtype_note}\nthe checkpoint",
    }
    before, after = card_facts(family, exported, "").parameters or (0, 0)
    screen.print(
        f"{len(exported.layers)} of {family.n_layers} layers, {after:,} of {before:,} parameters "
        f"({1 - after / before:.1%} fewer); {sentence[options.format]}: {out}"
    )
    if repository is not None:
        errors.print(f"uploading it to {repository.name} ...", style="dim")
        screen.print(f"uploaded: {push_folder(out, repository, public=public)}")
