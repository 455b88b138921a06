"""A depth ladder: one run a depth, each starting from the one before, and their curve."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptailor.app.run import run_depths, search
from gptailor.config import load_config
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError, RecordError
from gptailor.record.entries import ModelEntry, WrittenEntry
from gptailor.record.ladder_folder import refuse_other_form
from gptailor.record.run_record import RunRecord, read_run

pytestmark = pytest.mark.slow

Command = Callable[..., tuple[int, str, str]]
BUDGET = {"max_trials": 45, "n_examples": [4, 12], "finalists": 2}


@pytest.fixture(scope="module")
def ladder(job_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a ladder that was run into the folder ``run`` beside it."""
    folder = tmp_path_factory.mktemp("ladder")
    config = job_in(folder, remove="1..3", budget=BUDGET, guard=True)
    run_depths(load_config(config), folder / "run")
    return config


def records(ladder: Path) -> dict[int, RunRecord]:
    return {depth: read_run(ladder.parent / "run" / f"remove-{depth}") for depth in (1, 2, 3)}


def test_each_depth_is_a_run_that_measures_nothing_again(ladder: Path) -> None:
    seen: set[tuple[Tailoring, int]] = set()
    for depth, run in records(ladder).items():
        assert run.result is not None
        assert len(run.result.layers) == run.header.n_kept == 6 - depth
        asked = {(each.tailoring, each.n_examples) for each in run.proposals.values()}
        assert not asked & seen
        seen |= asked
        members = [e for e in run.entries if isinstance(e, ModelEntry) and e.member is not None]
        assert {entry.kind for entry in members} == {"reference", "finalist", "test"}
        assert any(entry.layer_tokens for entry in members) == (depth == 1)
        written = [e for e in run.entries if isinstance(e, WrittenEntry)]
        assert all(each.layer_tokens for each in written if each.member is None or depth == 1)
        assert not any(each.layer_tokens for each in written if each.member and depth > 1)
        assert "base" in run.written
        assert not run.resumed
        assert len(run.trials) <= 16  # 35 % of the budget


def test_a_deeper_run_begins_with_the_best_of_the_one_before(ladder: Path) -> None:
    runs = records(ladder)
    for depth in (2, 3):
        before = {each.tailoring.layers for each in runs[depth - 1].able}
        first = runs[depth].proposals[0].tailoring.layers
        assert any(set(first) < set(layers) for layers in before)


def test_a_stopped_ladder_goes_on_to_the_same_end(ladder: Path, tmp_path: Path) -> None:
    before = records(ladder)
    shutil.copytree(ladder.parent / "run", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "remove-3")
    record = tmp_path / "run" / "remove-2" / "record.jsonl"
    lines = record.read_bytes().splitlines(keepends=True)
    record.write_bytes(b"".join(lines[: len(lines) // 2]))
    runs = run_depths(load_config(ladder), tmp_path / "run")
    for depth, run in runs.items():
        assert run.record.proposals == before[depth].proposals
        assert run.record.result == before[depth].result


def test_the_commands_know_a_ladder(ladder: Path, tmp_path: Path, run_command: Command) -> None:
    run = ladder.parent / "run"
    code, _, err = run_command("baseline", "last_n", ladder, "--out", run / "last-base")
    assert code == 0, err
    code, out, err = run_command("report", run)
    assert code == 0, err
    page = Path(out.strip()).read_text(encoding="utf-8")
    assert page.count('class="dot top"') == 3
    assert page.count("last_n on base, ") == 3
    assert all((run / f"remove-{depth}" / "report.html").exists() for depth in (1, 2, 3))

    code, _, err = run_command("export", run, "-o", tmp_path / "model")
    assert code == 2
    assert "a depth ladder with 1, 2, 3 layers cut; name one of them with --remove" in err
    code, _, err = run_command("export", run, "--remove", 4, "-o", tmp_path / "model")
    assert code == 2
    assert "has no run with 4 layers cut, but 1, 2, 3" in err
    code, _, err = run_command("export", run, "--remove", 2, "-o", tmp_path / "model")
    assert code == 0, err
    assert json.loads((tmp_path / "model" / "config.json").read_text())["num_hidden_layers"] == 4
    code, out, err = run_command("compare", run, "--no-speed", "--json")
    assert code == 0, err
    names = [model["name"] for model in json.loads(out)["models"]]
    assert names[-3:] == ["remove-1", "remove-2", "remove-3"]


def test_a_ladder_and_a_single_run_are_not_mixed_up(
    ladder: Path, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(RecordError, match="is a depth ladder; name one of its runs"):
        read_run(ladder.parent / "run")
    with pytest.raises(RecordError, match="holds a single run"):
        run_depths(load_config(ladder), run)
    with pytest.raises(ConfigError, match="call run_depths"):
        search(ladder, tmp_path / "new")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").touch()
    for is_ladder in (True, False):
        with pytest.raises(RecordError, match="model: is the folder of a model; name another"):
            refuse_other_form(tmp_path / "model", is_ladder=is_ladder)


def test_a_check_foretells_each_depth(ladder: Path, run_command: Command) -> None:
    code, out, err = run_command("check", ladder)
    assert code == 0, err
    assert out.count(" of the parameters, with 35% of the budget\n") == 3
    code, out, err = run_command("check", ladder, "--json")
    assert code == 0, err
    expected: list[dict[str, Any]] = json.loads(out)
    assert [each["remove"] for each in expected] == [1, 2, 3]
    for each, run in zip(expected, records(ladder).values(), strict=True):
        assert run.spent is not None
        assert each["layer_tokens"] == pytest.approx(run.spent.layer_tokens, rel=0.3)
