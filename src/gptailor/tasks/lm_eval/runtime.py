"""Run lm-eval without its noise, and leave the process as it was found.

lm-eval draws progress bars, logs freely, and some of its tasks draw from Python's and numpy's
global generators. Here those are seeded as lm-eval seeds them, and put back afterwards. Imports
nothing of lm-eval.
"""

import contextlib
import io
import logging
import random  # noqa: TID251  # only to save, seed and restore the global state
import warnings
from collections.abc import Iterator

import numpy as np

__all__ = ["as_lm_eval_runs"]

_LOGGERS = ("lm_eval", "datasets", "transformers", "accelerate", "huggingface_hub")
_RANDOM_SEED, _NUMPY_SEED = 0, 1234  # lm-eval's own defaults


@contextlib.contextmanager
def as_lm_eval_runs() -> Iterator[None]:
    """Silence output, logs and warnings; seed the global generators; restore all at the end."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        random.seed(_RANDOM_SEED)
        np.random.seed(_NUMPY_SEED)  # noqa: NPY002
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
