"""Put the page together and write it: one file, nothing fetched, nothing run but its own script.

The template escapes every value. Knows nothing of how a picture is drawn or a number computed.
"""

import base64
import hashlib
import shlex
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gptailor.core.metrics import METRICS
from gptailor.core.statistics import Estimate
from gptailor.errors import RecordError
from gptailor.files.atomic import write_atomically
from gptailor.files.yaml import dump_yaml
from gptailor.record.run import RunRecord, read_run
from gptailor.report import words
from gptailor.report.choice import choice
from gptailor.report.cost_table import cost_rows
from gptailor.report.forest import forest
from gptailor.report.front import front
from gptailor.report.layer_map import layer_picture
from gptailor.report.progress import progress, rung_radius
from gptailor.report.scores import ScoreTable, best_trial, parameters_of, score_table

__all__ = ["Headline", "render", "write_report"]

_GENERATOR = b'<meta name="generator" content="GPTailor">'  # as the template writes it
_FILE = "report.html"
_SHOWN_FAILURES = 50


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write one HTML file about a run; it opens offline.

    Args:
        run_folder: The folder that ``gptailor search`` wrote; its study may still be going on.
        out: The file; ``report.html`` in the run's folder when None.

    Returns:
        The file written: the old one or the new, never half of one.

    Raises:
        UserError: The record can't be used, or the file can't be written.
    """
    run = read_run(run_folder)
    path = run_folder / _FILE if out is None else out
    if path.is_dir():
        raise RecordError(f"{path}: is a folder; name the HTML file to write")
    if path.exists() and not path.is_file():
        raise RecordError(f"{path}: is no plain file; name the HTML file to write")
    if path.exists() and _GENERATOR not in path.read_bytes()[:4096]:
        raise RecordError(f"{path}: exists and is no report of ours; name another file")
    page = render(run)
    write_atomically(path, page)
    return path


def render(run: RunRecord) -> str:
    """Make the page's text.

    Raises:
        RecordError: Two models were not measured on the same examples.
    """
    template, look = _template()
    return template.render(**_facts(run), **look)


@cache
def _template() -> tuple[jinja2.Template, dict[str, str]]:
    """The page's template, compiled once, and its style and script: files of this package."""
    loader = jinja2.PackageLoader("gptailor.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: vars(words)[name] for name in words.__all__})
    style, script = (
        Markup(loader.get_source(environment, name)[0]) for name in ("page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    look = {"style": style, "script": script, "script_digest": digest}
    return environment.get_template("page.html.jinja"), look


@dataclass(frozen=True, slots=True)
class Headline:
    """What was made, in numbers.

    Args:
        state: ``done``, ``open`` (candidates were scored, none is chosen yet), ``failed`` (none
            could be scored) or ``empty``.
        parameters: Of the base; None where the record does not tell.
        kept_parameters: Of the result.
        n_kept: Layers of the result, or those wanted.
        retention: The mean share of the base's score that is kept.
        n_candidates: Distinct candidates that were scored.
        layer_tokens: Of the search.
        seconds: Of the search, over all starts.
    """

    state: str
    parameters: int | None
    kept_parameters: int | None
    n_kept: int
    retention: Estimate | None
    n_candidates: int
    layer_tokens: int
    seconds: float


def _headline(run: RunRecord, table: ScoreTable | None) -> Headline:
    best = best_trial(run)
    result = None if table is None else table.result
    return Headline(
        state=_state(run),
        parameters=run.header.family.parameters or None,
        kept_parameters=None if best is None else parameters_of(run.header, best.tailoring),
        n_kept=run.n_kept if best is None else len(best.tailoring.layers),
        retention=None if result is None else result.average,
        n_candidates=len({trial.tailoring for trial in run.complete}),
        layer_tokens=sum(trial.layer_tokens for trial in run.trials),
        seconds=max(run.elapsed.values(), default=0.0),
    )


def _state(run: RunRecord) -> str:
    if run.chosen is not None:
        return "done"
    if not run.trials:
        return "empty"
    return "open" if run.complete else "failed"


def _facts(run: RunRecord) -> dict[str, Any]:
    """Everything the template shows."""
    header, best, table = run.header, best_trial(run), score_table(run)
    members = header.family.members
    return {
        "run": run,
        "name": run.folder.resolve().name,
        "folder": shlex.quote(str(run.folder)),
        "header": header,
        "headline": _headline(run, table),
        "table": table,
        "forest": None if table is None else forest(table, members),
        "best": best,
        "layers": None
        if best is None
        else layer_picture(best.tailoring, members, header.family.n_layers),
        "tailoring_yaml": "" if best is None else best.tailoring.to_yaml(),
        "progress": progress(run),
        "rung_radius": rung_radius,
        "costs": cost_rows(run.forecast, run.spent),
        "front": front(run),
        "choice": choice(run),
        "failures": run.failed[:_SHOWN_FAILURES],
        "reasons": Counter(trial.failure or "" for trial in run.failed).most_common(5),
        "config_yaml": dump_yaml(header.config) if header.config else "",
        "metrics": METRICS,
        "notes": _notes(run),
    }


def _notes(run: RunRecord) -> list[str]:
    """What was noticed in reading the record, the family and the tasks."""
    tasks = [f"{task}: {note}" for task, facts in run.header.tasks.items() for note in facts.notes]
    return [*run.notes, *run.header.family.notes, *tasks]
