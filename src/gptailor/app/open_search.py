"""Search for the best smaller model, or go on with a search: the function and what it opens."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptailor.app.run_folder import Run
from gptailor.app.settings import ConfigLike, run_folder, settings_of, with_recorded_settings
from gptailor.config import Config
from gptailor.record.journal import RECORD, Journal, read_record
from gptailor.record.ranking import write_results
from gptailor.record.run import read_run
from gptailor.study import Progress

if TYPE_CHECKING:
    from gptailor.app.assemble import Assembly
    from gptailor.family import Family
    from gptailor.tasks.splits import TaskSplits
    from gptailor.workers import WorkerPool

__all__ = ["OpenSearch", "open_search", "search"]


def search(  # the parts of a search
    config: ConfigLike,
    out: str | Path | None = None,
    *,
    searcher: str | Callable[..., Any] | None = None,
    family: "Family | None" = None,
    tasks: "Mapping[str, TaskSplits] | None" = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Run:
    """Search for the best smaller model; a search that was stopped goes on where it ended.

    Args:
        config: The path of a tailor.yaml, a mapping with its keys, or a `Config`.
        out: The run's folder; ``runs/NAME`` beside the config's file if absent.
        searcher: A searcher's name, or a generator function of your own, instead of the config's.
        family: A family in memory; the config then needs no section ``family``.
        tasks: What `load_tasks` returned; the config then needs no section ``tasks``.
        on_progress: Called after every trial and at every change of phase.

    Returns:
        The finished run.

    Raises:
        UserError: Something in the config, a member, a task or the folder is invalid, or no
            candidate could be scored.
    """
    settings = settings_of(config, searcher=searcher, family=family, tasks=tasks)
    folder = run_folder(config) if out is None else Path(out)
    with open_search(settings, folder, family=family, tasks=tasks) as opened:
        return opened.run(on_progress)


@dataclass(frozen=True, slots=True)
class OpenSearch:
    """A search whose family and tasks are loaded and whose folder is locked.

    Args:
        assembly: Everything put together.
        journal: The open record.
        pool: Where candidates are evaluated.
        family: The family in memory, if the caller gave one.
    """

    assembly: "Assembly"
    journal: Journal
    pool: "WorkerPool"
    family: "Family | None" = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about the family and the tasks that the user should read."""
        of_tasks = [note for splits in self.assembly.tasks.values() for note in splits.notes]
        return (*self.assembly.family.notes, *of_tasks)

    def run(self, on_progress: Callable[[Progress], None]) -> Run:
        """Search, choose, score the result on the test split, and write the results."""
        from gptailor.app.assemble import open_study, record_costs, record_forecast

        study = open_study(self.assembly, self.journal, on_progress=on_progress, pool=self.pool)
        record_forecast(self.journal, self.assembly)
        chosen = study.run()
        record_costs(self.journal, self.assembly)
        folder = self.journal.path.parent
        write_results(folder, chosen, study.front(), study.objective)
        return Run(folder, family=self.family)


@contextmanager
def open_search(
    config: Config,
    folder: Path,
    *,
    family: "Family | None" = None,
    tasks: "Mapping[str, TaskSplits] | None" = None,
    on_loading: Callable[[], None] = lambda: None,
) -> Iterator[OpenSearch]:
    """Load everything and open the record, so that problems come before evaluations.

    `on_loading` is called once the record was checked, before the members are loaded.

    Raises:
        UserError: Something in the config, a member, a task or the folder is invalid.
    """
    if (folder / RECORD).exists() and read_record(folder / RECORD):
        # a damaged record is refused before anything is loaded
        config = with_recorded_settings(config, read_run(folder))
    on_loading()
    from gptailor.app.assemble import assemble, probe_workers  # slow

    with closing(probe_workers(config)):  # what they lack is reported before the family is loaded
        assembly = assemble(config, family=family, tasks=tasks)
        with closing(assembly.pool()) as pool, Journal(folder) as journal:
            yield OpenSearch(assembly, journal, pool, family)
