"""Call other libraries: keep them quiet, and turn their errors into sentences."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from transformers.utils import logging

from gptailor.errors import FamilyError, UserError

__all__ = ["library_call", "one_line", "quiet"]

_MAX_TEXT = 300  # characters


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' log, bars and warnings, and keep torch's global seed as it is."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        with (
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),  # some bars can't be turned off
            warnings.catch_warnings(),
            torch.random.fork_rng(devices=[]),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def library_call(problem: str) -> Iterator[None]:
    """Call a library, quietly; its error becomes a `FamilyError` that begins with `problem`."""
    try:
        with quiet():
            yield
    except UserError:
        raise
    except Exception as error:  # the tokenizers library raises bare ones
        raise FamilyError(f"{problem}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An exception's text as one short line."""
    text = " ".join(str(error).split())
    if not text or isinstance(error, KeyError):  # a KeyError's text is the key alone
        text = f"{type(error).__name__} {text}".strip()
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
