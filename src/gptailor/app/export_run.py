"""Export a run's model or a tailoring: find it, load the members, check them, write the format."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptailor.app.header import refuse_changes
from gptailor.app.inputs import load_members, open_calibration, open_tasks
from gptailor.app.repairs import Repairs
from gptailor.app.settings import recorded_config
from gptailor.app.tailoring_file import load_tailoring
from gptailor.config import Config, load_config
from gptailor.config.repair_config import RepairConfig
from gptailor.core.score_table import ScoreTable, score_table
from gptailor.core.statistics import RESULT
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.engine import Engine
from gptailor.errors import ConfigError, RecordError, naming
from gptailor.export import card_facts, export_checkpoint, model_card
from gptailor.export.gguf.writer import export_gguf
from gptailor.export.mergekit.recipe import export_recipe
from gptailor.export.options import ExportOptions
from gptailor.family import Family
from gptailor.family.fitted import FOLDER
from gptailor.record.proof import proof_rows
from gptailor.record.ranking import BEST
from gptailor.record.run_record import RunRecord, read_run
from gptailor.report.chat_use import ChatUse, chat_use
from gptailor.report.writing import writing

__all__ = ["Provenance", "export", "find_provenance"]

_SCORES_NOTE = "Examples that neither the search nor the choice among finalists had seen."


@dataclass(frozen=True, slots=True)
class Provenance:
    """A tailoring and where it comes from."""

    config: Config  # with which it was searched, or for which it was written
    tailoring: Tailoring  # what is to be exported
    record: RunRecord | None = None  # that of its run; None where there is no run
    # those of the members and of the tailoring on the test split, if they are recorded
    scores: ScoreTable | None = None
    n_tried: int | None = None  # how many candidates were tried; None where there was no search

    @property
    def ended(self) -> RunRecord | None:
        """The record of the run whose result the tailoring is; None of any other tailoring."""
        record = self.record
        return record if record is not None and record.result == self.tailoring else None


def export(  # noqa: PLR0913  # what may be said of an export
    run: Path,
    out: Path,
    options: ExportOptions,
    *,
    trial: int | None = None,
    tailoring: Path | None = None,
    overwrite: bool = False,
    family: Family | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> tuple[Family, Tailoring]:
    """Write a model for other tools to load; return the members and the exported tailoring.

    `Run.export` describes the arguments; `run` may be a config, if there is a `tailoring` (the
    path of a tailoring.yaml). `on_message` gets a sentence before what takes long.
    """

    def members(config: Config) -> Family:
        nonlocal family
        if family is None:
            on_message("loading the family ...")
            family = load_members(config)
        return family

    found = find_provenance(
        run, trial=trial, tailoring=tailoring, n_layers=lambda config: members(config).n_layers
    )
    family = members(found.config)
    family.fitted.look_in((tailoring or run / BEST).parent / FOLDER)
    with naming(str(tailoring or run)):
        found.tailoring.check(family.members, family.n_layers, tied=family.tied)
        found = dataclasses.replace(found, tailoring=_with_refits(found, family))
        family.check(found.tailoring)
    if found.record is not None:
        refuse_changes(found.record, family)
    inputs = [Path(n) for task in found.config.tasks for n in (task.name, task.test_task) if n]
    keep = [run, *([tailoring] if tailoring is not None else []), *filter(Path.is_file, inputs)]
    facts = card_facts(family, found.tailoring, out.resolve().name)
    _, n_parameters = facts.parameters or (0, 0)
    if n_bytes := options.n_bytes(n_parameters, family.dtype.itemsize):
        on_message(f"writing about {n_bytes / 1e9:.2g} GB, then reading them back to compare ...")
    more: dict[str, Any] = {"overwrite": overwrite, "keep": keep}
    if options.format == "gguf":
        export_gguf(family, found.tailoring, out, dtype=options.gguf_dtype, **more)
    elif options.format == "mergekit":
        export_recipe(family, found.tailoring, out, **more)
    else:
        record, ended = found.record, found.ended
        proof = None if ended is None else ended.proof
        chat = ChatUse() if record is None else chat_use(record.header)
        facts = dataclasses.replace(
            facts,
            scores=found.scores,
            scores_note=f"{_SCORES_NOTE} {chat.about}." if chat.about else _SCORES_NOTE,
            chat=chat,
            writing=None if ended is None else writing(ended),
            n_tried=found.n_tried,
            target="" if record is None else record.header.target or "",
            proof=() if proof is None else proof_rows(proof),
        )
        card = model_card(facts)
        export_checkpoint(family, found.tailoring, out, card=card, **options.hf_arguments, **more)
    return family, found.tailoring


def _with_refits(found: Provenance, family: Family) -> Tailoring:
    """The tailoring, with the layers fitted that were to be fitted in the search."""
    if all(spec.refit_to is None or spec.fitted is not None for spec in found.tailoring.layers):
        return found.tailoring
    tasks = open_tasks(found.config, family)
    calibration = functools.partial(open_calibration, found.config, family, tasks)
    engine = Engine(family, device=family.states[BASE][family.layout.embedding].device)
    repairs = Repairs(RepairConfig(name="refit"), engine, calibration)
    if found.record is not None:
        refuse_changes(found.record, family, tasks, repairs.calibration)
    assert repairs.repairer is not None, "a refit repairs"
    return repairs.fitted_as_in_search(found.tailoring)


def find_provenance(
    run: Path, *, trial: int | None, tailoring: Path | None, n_layers: Callable[[Config], int]
) -> Provenance:
    """Find out what is to be exported; `export` describes the arguments.

    `n_layers` returns how many layers the members of a config have.
    """
    if trial is not None and tailoring is not None:
        raise ConfigError("export: give --trial or --tailoring, not both")
    if run.is_file():
        if tailoring is None:
            raise ConfigError(f"export: {run} is a config; name a tailoring.yaml with --tailoring")
        config = load_config(run)
        return Provenance(config, load_tailoring(tailoring, config, lambda: n_layers(config)))
    record = read_run(run)
    config, chosen = recorded_config(record), record.chosen
    if tailoring is not None:
        made = load_tailoring(tailoring, config, lambda: record.header.family.n_layers)
        return Provenance(config, made, record)
    if trial is None:
        if chosen is None:
            raise RecordError(
                f"{run}: nothing was chosen yet; finish the search, or name a trial with --trial"
            )
        trial = chosen.number
    if trial not in record.proposals:
        raise RecordError(f"{run}: there is no trial {trial}; see the report for their numbers")
    scores, on_test = None, record.on_test
    if BASE in on_test and trial in on_test:
        models = {name: on_test[name] for name in record.header.family.members if name in on_test}
        scores = score_table(
            {**models, RESULT: on_test[trial]},
            {goal.task: goal.metric for goal in record.goals},
            chances=record.header.chances("test"),
        )
    n_tried = None if chosen is None or trial != chosen.number else chosen.n_tried
    return Provenance(config, record.tailoring_of(trial), record, scores, n_tried)
