"""Draws a study's progress on stderr: trials, best so far, examples per second, time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from gptailor.study import Progress

__all__ = ["progress_display"]

_PHASES = {
    "references": "scoring the whole members",
    "search": "searching",
    "selection": "choosing among the finalists",
    "test": "scoring on unseen examples",
    "done": "done",
}
_QUIET_S = 15.0  # seconds between lines where there is no terminal


@contextmanager
def progress_display(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Draw a bar on a terminal; elsewhere print a line now and then.

    Yields:
        A function that draws one step of a study.
    """
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    text = TextColumn("{task.fields[text]}")
    live, last_phase, last_line = console.is_terminal, "", 0.0
    bar = Bar(*columns, text, TimeElapsedColumn(), console=console, disable=not live)
    task = bar.add_task("starting", total=None, text="")

    def show(progress: Progress) -> None:
        nonlocal last_phase, last_line
        phase, text, now = _PHASES[progress.phase], _text(progress), time.monotonic()
        n, most = progress.n_trials, progress.max_trials
        bar.update(task, description=phase, completed=n, total=most, text=text)
        if not live and (phase != last_phase or now - last_line > _QUIET_S):
            last_line = now
            console.print(f"{phase}: {n}/{most} trials {text}")
        last_phase = phase

    with bar:
        yield show


def _text(progress: Progress) -> str:
    parts = []
    if progress.best is not None:
        number, loss, n_examples = progress.best
        parts.append(f"best #{number} {-100 * loss:+.1f}% of the base on {n_examples} examples")
    if progress.phase == "search" and progress.examples:
        parts.append(f"{progress.examples / max(progress.seconds, 1e-9):.0f} examples/s")
        parts.append(_left(progress))
    return " · ".join(part for part in parts if part)


def _left(progress: Progress) -> str:
    """Time left, at the mean time of a trial over all starts."""
    if not progress.n_trials or progress.last is None:
        return ""
    rest = progress.max_trials - progress.n_trials
    seconds = rest * progress.elapsed / progress.n_trials
    if progress.timeout_s is not None:
        seconds = min(seconds, max(0.0, progress.timeout_s - progress.elapsed))
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
