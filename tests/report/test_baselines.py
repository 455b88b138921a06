"""The report of a run of baselines: a row each, and the reasons of those without scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from recorded_runs import Sketch, make_baselines, record_of, write_lines

from gptailor.app.compare_runs import compare
from gptailor.record.run_record import read_run
from gptailor.report import write_report
from gptailor.report.baselines import baseline_tables
from gptailor.report.comparison import kept_grid

Lines = list[dict[str, Any]]


def baseline_run(folder: Path, n_tested: int = 5) -> Path:
    """Six trials are baselines: the first failed, so many after it are scored on the test split."""
    lines: Lines = record_of(Sketch(n_trials=6, rungs=(27,), failing=0.0))
    tested = lines.pop()  # of the result
    lines += [tested | {"number": number} for number in range(1, n_tested + 1)]
    if not n_tested:
        lines = [line for line in lines if line["kind"] != "test"]
    next(line for line in lines if line["kind"] == "chosen")["number"] = 3
    make_baselines(lines, failure="out of <memory>", layer_tokens=9000)
    write_lines(folder, lines)
    return folder


def test_each_baseline_has_a_row_and_one_without_scores_its_reason(tmp_path: Path) -> None:
    run = baseline_run(tmp_path / "run", n_tested=4)
    names = [*(f"cut {number} on math" for number in range(1, 5)), "twin on math"]
    found = baseline_tables(read_run(run))
    assert found is not None
    assert found.scored is not None
    assert [row[0] for row in found.scored.rows] == names
    assert dict(found.failed) == {
        "laco on math": "no such layer",
        "cut 0 on math": "out of <memory>",
        "cut 5 on math": "not scored on unseen examples yet",
    }
    assert found.chosen == "cut 3 on math"
    row = dict(zip(found.scored.head, found.scored.rows[0], strict=True))
    assert row["parameters"] == "109.7M"
    assert (row["layer-tokens\nto find it"], row["time\nto find it"]) == ("9k", "2.5 s")
    assert row["layers cut"].endswith("\nnarrower")
    assert "%" in row["of base"]
    page = write_report(run).read_text(encoding="utf-8")
    section = page[page.index('id="baselines"') :].partition("</section>")[0]
    for text in (*names, "no such layer", "out of &lt;memory&gt;", "above chance"):
        assert text in section
    for cell in row.values():
        assert cell.partition("\n")[0] in section


def test_shares_and_losses_are_those_that_compare_shows(tmp_path: Path) -> None:
    run = baseline_run(tmp_path / "run")
    found, all_rows = baseline_tables(read_run(run)), compare([run], with_speed=False)
    assert found is not None
    assert found.comparison is not None
    assert found.scored is not None
    assert found.comparison.table == all_rows.table
    theirs = {row[0]: row for row in kept_grid(all_rows).rows}
    for row in found.scored.rows:
        assert row[: len(theirs[row[0]])] == theirs[row[0]]


def test_reasons_are_shown_before_models_were_scored_on_unseen_examples(tmp_path: Path) -> None:
    run = baseline_run(tmp_path / "run", n_tested=0)
    found = baseline_tables(read_run(run))
    assert found is not None
    assert found.scored is None
    assert len(found.failed) == 8
    assert "no such layer" in write_report(run).read_text(encoding="utf-8")


def test_a_search_has_no_such_section(make_run: Callable[..., Path]) -> None:
    run = make_run(n_trials=3)
    assert baseline_tables(read_run(run)) is None
    assert 'id="baselines"' not in write_report(run).read_text(encoding="utf-8")
