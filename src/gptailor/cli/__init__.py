"""The command line: one file a command.

Results go to stdout; progress and problems go to stderr. Exit codes: 0 done; 2 the input is bad,
or stdout or stderr can't be written (sentences); 1 an error of this program (a traceback; in a run
a sentence, and the traceback in a file), or a closed pipe; 130 stopped with Ctrl-C. Each
command imports the heavy libraries that it needs itself.
"""

import io
import logging
import os
import sys

import typer

from gptailor.cli import (
    baseline,
    check,
    compare,
    convert,
    evaluate,
    explain,
    export,
    heal,
    init,
    report,
    sample,
    search,
)
from gptailor.cli.faults import given_up, unwritable
from gptailor.errors import UserError, is_out_of_memory

__all__ = ["app", "main"]

_MEMORY = (
    "out of memory, not in scoring a candidate but around it; what was scored is recorded: give "
    "the process more memory, or see 'gptailor check' for what it needs, and run the same command"
)

app = typer.Typer(
    help="Make a smaller language model from a family of fine-tuned ones.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _verb in (
    init,
    check,
    search,
    baseline,
    report,
    sample,
    export,
    evaluate,
    compare,
    explain,
    heal,
    convert,
):
    app.command(_verb.__name__.rpartition(".")[2])(_verb.command)


def main() -> None:
    """Run one command; turn a `UserError` into sentences and exit code 2."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a path in a locale without its letters
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except UserError as error:
        problems = error.problems
    except OSError as error:
        problem = unwritable(error)
        if problem is None:
            raise
        problems = (problem,)
    except (MemoryError, RuntimeError, ImportError) as error:
        if not is_out_of_memory(error):
            raise
        problems = (_MEMORY,)
    else:
        return
    try:
        for sentence in problems:
            sys.stderr.write(f"error: {sentence}\n")
        sys.stderr.flush()
    except OSError:
        given_up(sys.stderr)  # the exit code remains
    raise SystemExit(2)
