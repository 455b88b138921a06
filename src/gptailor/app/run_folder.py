"""A run from Python: what was tried, what was chosen, and what can be made of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gptailor.core.trial import Scores, Trial
from gptailor.errors import RecordError, UserError
from gptailor.record.run import RunRecord, read_run
from gptailor.report import write_report

if TYPE_CHECKING:
    import pandas

    from gptailor.family import Family

__all__ = ["Run"]

_NAN = float("nan")


class Run:
    """The folder of a search, finished or not; it is read when it is opened.

    Args:
        folder: What `search` or ``gptailor search`` wrote.
        family: The family in memory that was searched, if its members are in no files.

    Raises:
        RecordError: The folder is not a run's, or its record is damaged.
    """

    def __init__(self, folder: str | Path, *, family: "Family | None" = None) -> None:
        self.folder = Path(folder)
        self.record: RunRecord = read_run(self.folder)
        self._family = family

    @property
    def best(self) -> Trial:
        """The chosen trial, with its tailoring and its scores on the search split.

        Raises:
            RecordError: The search has not ended yet.
        """
        if self.record.chosen_trial is None:
            raise RecordError(
                f"{self.folder}: no candidate was chosen yet; finish the search: call search with "
                "the same config and folder"
            )
        return self.record.chosen_trial

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial in order, complete or failed."""
        return self.record.trials

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other beats on every task, among those on the most examples."""
        return self.record.front

    @property
    def scores(self) -> Mapping[str, Scores]:
        """Member, or ``result``, to its scores on the test split; empty before the search ends."""
        return self.record.test_scores

    def export(  # what the command's options are
        self,
        out: str | Path,
        format: str = "hf",  # the word of the command line
        *,
        trial: int | None = None,
        dtype: str | None = None,
        overwrite: bool = False,
        family: "Family | None" = None,
    ) -> Path:
        """Write the chosen model, or another trial's, for other tools to load.

        Args:
            out: A folder for ``hf``; a file for ``gguf`` and ``mergekit``.
            format: ``hf`` (a stock checkpoint), ``gguf`` (llama.cpp) or ``mergekit`` (a recipe).
            trial: A trial's number; the chosen one if absent.
            dtype: For ``hf`` float32, bfloat16 or float16; for ``gguf`` f16, bf16, q8_0 or f32.
            overwrite: Replace a folder or file that no export wrote.
            family: The members, where they are in no files and the run was opened anew.

        Returns:
            The folder or file.

        Raises:
            UserError: It can't be written as asked, or the members changed since the search.
        """
        from gptailor.app.export_run import export
        from gptailor.export.options import ExportOptions

        options = ExportOptions.of(format, Path(out), dtype=dtype)
        export(
            self.folder,
            Path(out),
            options,
            trial=trial,
            overwrite=overwrite,
            family=family or self._family,
        )
        return Path(out)

    def report(self, out: str | Path | None = None) -> Path:
        """Write one HTML file about the run; ``report.html`` in its folder if absent.

        Raises:
            UserError: The file can't be written.
        """
        return write_report(self.folder, None if out is None else Path(out))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row a trial, as a pandas table (extra ``pandas``).

        Columns: number, origin, n_layers, n_examples, loss (the weighted mean, relative to the
        base), a column ``TASK METRIC`` for each task, failure, seconds, layer_tokens, chosen, and
        the layers as text. A failed trial has NaN for its loss and metrics.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError(
                "to_dataframe needs pandas, which is not installed; run: pip install pandas"
            ) from None
        return pandas.DataFrame([self._row(trial) for trial in self.trials])

    def _row(self, trial: Trial) -> dict[str, object]:
        objective, scores = self.record.objective, trial.scores
        names = [(goal.task, goal.metric) for goal in self.record.goals]
        loss, values = _NAN, dict.fromkeys(names, _NAN)
        if scores is not None and objective is not None:
            loss, values = objective.scalar(scores), {name: scores.value(*name) for name in names}
        return {
            "number": trial.number,
            "origin": trial.proposal.origin,
            "n_layers": len(trial.tailoring.layers),
            "n_examples": trial.proposal.n_examples,
            "loss": loss,
            **{f"{task} {metric}": value for (task, metric), value in values.items()},
            "failure": trial.failure,
            "seconds": trial.evaluation.seconds,
            "layer_tokens": trial.evaluation.layer_tokens,
            "chosen": trial == self.record.chosen_trial,
            "layers": ", ".join(map(str, trial.tailoring.layers)),
        }
