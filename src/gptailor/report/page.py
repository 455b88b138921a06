"""Write the page: one file that fetches nothing and runs nothing but its own script."""

import shlex
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from gptailor.core.metrics import METRICS
from gptailor.core.statistics import RESULT
from gptailor.core.tailoring import BASE
from gptailor.record.ladder_folder import ladder_of
from gptailor.record.proof import proof_rows
from gptailor.record.run_record import RunRecord, read_run
from gptailor.report.baselines import baseline_tables
from gptailor.report.chat_use import chat_use
from gptailor.report.explanation import explanation, explanation_grid, explanation_sentence
from gptailor.report.forest import forest
from gptailor.report.front import front
from gptailor.report.ladder_page import ladder_facts
from gptailor.report.layer_map import layer_picture
from gptailor.report.progress import rung_radius, search_chart
from gptailor.report.repeating import repeating_config, repeating_steps
from gptailor.report.scores import evidence, finalists, parameters_of, table_of, values_of
from gptailor.report.template import write_page
from gptailor.report.words import cost_rows, share_lines
from gptailor.report.writing import writing

__all__ = ["write_report"]

_FILE = "report.html"
_SHOWN_FAILURES = 50


def write_report(run_folder: Path, out: Path | None = None) -> Path:
    """Write one HTML file about a run; it opens offline. Of a depth ladder, also one of each run.

    Args:
        run_folder: The folder that ``gptailor search`` wrote; its study may still be going on.
        out: The file; ``report.html`` in the folder when None.

    Returns:
        The file written: the old one or the new, never half of one.

    Raises:
        UserError: The record can't be used, or the file can't be written.
    """
    path = run_folder / _FILE if out is None else out
    if runs := ladder_of(run_folder):
        for each in runs.values():
            write_report(each)
        write_page(path, "ladder.html.jinja", lambda: ladder_facts(run_folder, runs))
        return path
    run = read_run(run_folder)
    write_page(path, "page.html.jinja", lambda: _facts(run))
    return path


def _facts(run: RunRecord) -> dict[str, Any]:
    """Everything the template shows."""
    header, best, found = run.header, run.best_trial, evidence(run)
    result = run.result or (None if best is None else best.tailoring)
    table = None if found is None else table_of(run, found)
    explained, steps = explanation(run), repeating_steps(run)
    members, n_layers = header.family.members, header.family.n_layers
    state = "open" if run.complete else "failed" if run.trials else "empty"
    task_notes = [f"{task}: {note}" for task, facts in header.tasks.items() for note in facts.notes]
    return {
        "run": run,
        "name": run.folder.resolve().name,
        "chat": chat_use(header).about,
        "folder": shlex.quote(str(run.folder)),
        "header": header,
        "state": state if run.chosen is None else "done",
        "kept_parameters": None if result is None else parameters_of([run], result),
        "n_kept": header.n_kept if result is None else len(result.layers),
        "retention": None if table is None else table.averages.get(RESULT),
        "mean": None if table is None else table.means.get(RESULT),
        "share_lines": share_lines,
        "n_candidates": len({trial.tailoring for trial in run.complete}),
        "layer_tokens": sum(trial.evaluation.layer_tokens for trial in run.trials),
        "seconds": max(run.elapsed.values(), default=0.0),
        "evidence": found,
        "table": table,
        "forest": None if table is None else forest(table, members),
        "best": best,
        "baselines": baseline_tables(run),
        "writing": writing(run),
        "layers": None if result is None else layer_picture(result, members, n_layers),
        "explained": explained,
        "explained_grid": None if explained is None else partial(explanation_grid, run, explained),
        "explained_sentence": explanation_sentence(explained) if explained else "",
        "result_refits": result is not None and any(s.refit_to for s in result.layers),
        "tailoring_yaml": "" if result is None else result.to_yaml(),
        "progress": search_chart(run),
        "rung_radius": rung_radius,
        "proof": [] if run.proof is None else proof_rows(run.proof),
        "costs": cost_rows(run.forecast, run.spent),
        "front": front(run),
        "rank_metrics": list(dict.fromkeys(goal.measured(proxy=True) for goal in run.goals)),
        "finalists": finalists(run),
        "base_values": values_of(run, run.on_selection[BASE]) if BASE in run.on_selection else (),
        "failures": run.failed[:_SHOWN_FAILURES],
        "reasons": Counter(trial.failure or "" for trial in run.failed).most_common(5),
        "config_yaml": repeating_config(header.config),
        "steps": steps,
        "step_width": max(len(command) for command, _ in steps),
        "metrics": METRICS,
        "notes": [*run.notes, *header.family.notes, *task_notes],
    }
