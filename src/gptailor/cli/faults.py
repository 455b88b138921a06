"""What a command says of an exception that nobody foresaw, and of streams that can't be written."""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer

from gptailor.cli.console import errors
from gptailor.errors import UserError, is_out_of_memory, one_line
from gptailor.files.atomic import write_atomically

__all__ = ["TRACEBACK", "given_up", "one_sentence", "unwritable"]

TRACEBACK = "traceback.txt"
_AGAIN = "mend the cause and run the same command again"


@contextmanager
def one_sentence(
    folder: Path | None, stage: Callable[[], str], go_on: str = _AGAIN
) -> Iterator[None]:
    """Exit with 1 and a sentence at an unforeseen exception; its traceback goes into a file.

    Before there is a run it is raised as it is; so are too little memory and a closed pipe.

    Args:
        folder: The run's, if there is one.
        stage: Returns what is being done.
        go_on: What to do then.
    """
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        if is_out_of_memory(error) or folder is None or not folder.is_dir():
            raise
        is_file = isinstance(error, OSError) and error.filename is not None  # else maybe a stream
        if isinstance(error, OSError) and not is_file and (problem := unwritable(error)):
            raise UserError(problem) from None
        try:
            write_atomically(folder / TRACEBACK, traceback.format_exc())
        except UserError:  # a full disk: shown as it is
            raise error from None
        message = next(iter(str(error).splitlines()), "")
        errors.print(
            f"error: {stage()} failed: {type(error).__name__}: {one_line(message)} (traceback in "
            f"{folder / TRACEBACK}); what {folder} has recorded is kept: {go_on}"
        )
        raise typer.Exit(1) from None


def unwritable(error: OSError) -> str | None:
    """A sentence, if stdout or stderr can't be written; such a stream goes nowhere from now on."""
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    name = next((name for name, stream in streams.items() if given_up(stream)), None)
    return None if name is None else f"{name} can't be written: {error.strerror}"


def given_up(stream: TextIO) -> bool:
    """Whether a stream can't be written (a full disk behind ``>``); if so it goes nowhere now."""
    try:
        stream.flush()
        os.write(stream.fileno(), b"\n")  # nothing may wait to be flushed: see PYTHONUNBUFFERED
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        return True
    return False
