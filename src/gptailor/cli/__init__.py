"""The command line: one file a verb.

Results go to stdout, progress and faults to stderr. Exit codes: 0 done; 2 the input is at fault,
told in sentences; 1 a fault of ours, with its traceback; 130 stopped with Ctrl-C. Heavy libraries
are imported by the verb that needs them.
"""

import logging
import os
import sys

import typer

from gptailor.cli.check import command as check
from gptailor.cli.convert import command as convert
from gptailor.cli.evaluate import command as evaluate
from gptailor.cli.export import command as export
from gptailor.cli.init import command as init
from gptailor.cli.report import command as report
from gptailor.cli.search import command as search
from gptailor.errors import UserError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Make a smaller language model from a family of fine-tuned ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("init")(init)
app.command("check")(check)
app.command("search")(search)
app.command("report")(report)
app.command("export")(export)
app.command("evaluate")(evaluate)
app.command("convert")(convert)


def main() -> None:
    """Run one verb; turn a user's fault into sentences and exit code 2."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except UserError as fault:
        for sentence in fault.faults:
            sys.stderr.write(f"error: {sentence}\n")
        raise SystemExit(2) from None
