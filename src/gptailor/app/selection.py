"""What is to be exported, and what is known of it: read from a run, or from a config."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gptailor.config import Config, load_config
from gptailor.core.frozen import RECORDED
from gptailor.core.statistics import RESULT, ScoreTable, score_table
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.errors import ConfigError, RecordError
from gptailor.record.entries import Header
from gptailor.record.run import RunRecord, read_run

__all__ = ["Provenance", "find_provenance", "recorded_config"]


@dataclass(frozen=True, slots=True)
class Provenance:
    """A tailoring and where it comes from.

    Args:
        config: With which it was searched, or for which it was written.
        tailoring: What is to be exported.
        scores: Those of the base and of the tailoring on the test split, if they are recorded.
        scores_note: Which examples these are.
        n_tried: How many candidates were tried; None where there was no search.
        header: The header of the run's record; None where there is no run.
    """

    config: Config
    tailoring: Tailoring
    scores: ScoreTable | None = None
    scores_note: str = ""
    n_tried: int | None = None
    header: Header | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The local files that the tasks are read from."""
        named = [task.name for task in self.config.tasks]
        named += [task.test_task for task in self.config.tasks if task.test_task]
        return tuple(Path(name) for name in named if Path(name).is_file())


def find_provenance(run: Path, *, trial: int | None, tailoring: Path | None) -> Provenance:
    """Find out what is to be exported.

    Args:
        run: A run's folder, or a config.
        trial: A trial's number; the chosen one if None.
        tailoring: A tailoring.yaml, instead of a trial.

    Raises:
        UserError: The folder is not a run's, the trial does not exist, nothing was chosen yet.
    """
    if trial is not None and tailoring is not None:
        raise ConfigError("export: give --trial or --tailoring, not both")
    if run.is_file():
        if tailoring is None:
            raise ConfigError(f"export: {run} is a config; name a tailoring.yaml with --tailoring")
        return Provenance(load_config(run), Tailoring.load(tailoring))
    record = read_run(run)
    config = recorded_config(record)
    if tailoring is not None:
        return Provenance(config, Tailoring.load(tailoring), header=record.header)
    if trial is None and record.chosen is None:
        raise RecordError(
            f"{run}: nothing was chosen yet; finish the search, or name a trial with --trial"
        )
    number = record.chosen.number if trial is None and record.chosen is not None else trial
    if number is None or number not in record.proposals:
        raise RecordError(f"{run}: there is no trial {number}; see the report for their numbers")
    scores = _scores(record, number)
    note = "Examples that neither the search nor the choice among finalists had seen."
    return Provenance(
        config,
        record.proposals[number].tailoring,
        scores,
        note if scores is not None else "",
        None if record.chosen is None else record.chosen.n_tried,
        record.header,
    )


def _scores(record: RunRecord, number: int) -> ScoreTable | None:
    """Scores of base and trial on the test split, where that trial was scored there."""
    if BASE not in record.on_test or number not in record.on_test:
        return None
    models = {BASE: record.on_test[BASE], RESULT: record.on_test[number]}
    return score_table(models, {goal.task: goal.metric for goal in record.goals})


def recorded_config(record: RunRecord) -> Config:
    """The config that a run was begun with, every default filled in; imports no plug-in metric.

    Raises:
        RecordError: This version can't read it.
    """
    try:
        plain = json.dumps(record.header.config)
        return Config.model_validate_json(plain, context=RECORDED)
    except ValidationError:
        raise RecordError(
            f"{record.folder}: its config is not one of this version; use the version that searched"
        ) from None
