"""Draws a study's progress on stderr: trials, best so far, examples per second, time left."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from gptailor.study import Progress

__all__ = ["ProgressDisplay"]

_PHASES = {
    "references": "scoring the whole members",
    "search": "searching",
    "selection": "choosing among the finalists",
    "test": "scoring on unseen examples",
    "done": "done",
}
_QUIET_S = 15.0  # seconds between lines where there is no terminal


class ProgressDisplay:
    """A bar on a terminal; a line now and then anywhere else.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("starting", total=None, told="")
        self._phase, self._last_line, self._replayed = "", 0.0, 0

    def __enter__(self) -> "ProgressDisplay":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Draw one step of a study."""
        told = self._told(progress)
        changed = progress.phase != self._phase
        self._phase = progress.phase
        description = _PHASES[progress.phase]
        self._bar.update(
            self._task,
            description=description,
            completed=progress.n_trials,
            total=progress.max_trials,
            told=told,
        )
        if self._live:
            return
        if changed or time.monotonic() - self._last_line > _QUIET_S:
            self._last_line = time.monotonic()
            trials = f"{progress.n_trials}/{progress.max_trials} trials"
            self._console.print(f"{description}: {trials} {told}")

    def _told(self, progress: Progress) -> str:
        told = []
        if progress.best is not None:
            number, loss, n_examples = progress.best
            told.append(f"best #{number} {-100 * loss:+.1f}% of the base on {n_examples} examples")
        if progress.phase == "search" and progress.examples:
            told.append(f"{progress.examples / max(progress.seconds, 1e-9):.0f} examples/s")
            told.append(_left(progress))
        return " · ".join(part for part in told if part)


def _left(progress: Progress) -> str:
    """Time left, judged by the trials of this start and over all starts."""
    if not progress.n_trials or progress.last is None:
        return ""
    rest = progress.max_trials - progress.n_trials
    seconds = rest * progress.elapsed / progress.n_trials
    if progress.timeout_s is not None:
        seconds = min(seconds, max(0.0, progress.timeout_s - progress.elapsed))
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"
