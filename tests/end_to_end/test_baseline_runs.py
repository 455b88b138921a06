"""``gptailor baseline``: a run like any other, of published baselines."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptailor.core.objective import Objective
from gptailor.core.plugins import BASELINES
from gptailor.record.entries import RefittedEntry
from gptailor.record.run_record import read_run
from gptailor.report.scores import parameters_of
from gptailor.study.racing import best_first

pytestmark = pytest.mark.slow

Command = Callable[..., tuple[int, str, str]]
WIDTH = ("wanda_sp", "slimgpt", "slimgpt_log", "huang")
PLUS = ("shortened_ppl_plus", "shortened_taylor_plus")  # six layers leave them nothing to cut


@pytest.fixture
def small(pico_family: Any) -> dict[str, Any]:
    """A base and a variant, one task, few calibration tokens."""
    variants = {"math": str(pico_family.variants["math"])}
    return {
        "family": {"base": str(pico_family.base), "variants": variants, "dtype": "float32"},
        "tasks": [{"name": "./tasks/which.yaml", "metric": "acc"}],
        "budget": {"n_examples": [8]},
        "calibration": {"n_tokens": 300, "max_length": 20},
    }


@pytest.fixture
def config(job: Callable[..., Path], small: dict[str, Any]) -> Path:
    return job(**small)


def lines_of(run: Path) -> list[bytes]:
    return (run / "record.jsonl").read_bytes().splitlines(keepends=True)


def test_all_baselines_are_one_run_that_goes_on_and_is_reported_and_exported(
    config: Path, tmp_path: Path, run_command: Command
) -> None:
    run = tmp_path / "all"
    words = ("baseline", "all", config, "--out", run, "--json")
    code, out, err = run_command(*words)
    assert code == 0, err
    assert re.search(r"for a pass through a model; the test split: about \d+ s a model", err)
    record, plain = read_run(run), json.loads(out)
    assert tuple(record.baselines) == BASELINES.names
    assert record.header.config["search"]["name"] == "baseline"
    rows = {row["name"]: row for row in plain["baselines"]}
    for name, entry in record.baselines.items():
        row = rows[name]
        if name in PLUS:
            assert ("it may cut 0 of 6 layers only" in row["failure"], row["cuts"]) == (True, [])
            continue
        trial = record.trials[row["number"]]
        assert trial.tailoring == entry.tailoring
        assert len(row["cuts"]) == (0 if name in WIDTH else 2)
        assert record.objective is not None
        objective = Objective(record.goals, record.on_test["base"])
        assert row["loss"] == objective.scalar(record.on_test[row["number"]])
        assert entry.alone_layer_tokens >= entry.layer_tokens
        assert (entry.alone_layer_tokens == 0) == (name in ("random", "last_n", "tail"))
    assert record.trials[0].proposal.origin == "random on base"
    assert {trial.proposal.n_examples for trial in record.trials} == {record.header.rungs[-1]}
    selection = Objective(record.goals, record.on_selection["base"])
    compared = {n: scores for n, scores in record.on_selection.items() if n != "base"}
    assert plain["number"] == best_first(compared, selection)[0]

    before = lines_of(run)
    code, again, err = run_command(*words)
    assert (code, json.loads(again)) == (0, plain), err
    assert lines_of(run) == before
    assert "computing" not in err
    assert run_command("report", run)[0] == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="baselines"') :].partition("</section>")[0]
    assert [name for name in BASELINES.names if f">{name} on base</th>" not in section] == []
    assert section.count("it may cut 0 of 6 layers only") == len(PLUS)
    assert list((run / "fitted").glob("*.safetensors"))
    narrow = rows["slimgpt"]["number"]  # made of the fitted tensors in the run's folder
    code, _, err = run_command("export", run, "-o", tmp_path / "model", "--trial", narrow)
    assert code == 0, err
    made = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert (made["num_hidden_layers"], made["num_key_value_heads"]) == (6, 1)
    per_layer = record.header.family.layer_parameters[0]
    for name in WIDTH:  # as many as two layers have
        gone = record.baselines[name].idle_parameters
        assert gone == pytest.approx(2 * per_layer, rel=0.02)
        size = parameters_of([record], record.baselines[name].tailoring)
        assert size == record.header.family.parameters - gone
    code, _, err = run_command("baseline", "sleb", config, "--out", run)
    assert code == 2
    assert "search.options.names" in err


def test_what_was_recorded_before_a_kill_is_not_computed_again(
    config: Path, tmp_path: Path, run_command: Command
) -> None:
    words = ("baseline", "random,shortgpt,sleb", config, "--member", "math", "--out")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, out, err = run_command(*words, whole)
    assert code == 0, err
    assert "chosen on the selection split: trial" in " ".join(out.split())
    assert "shortgpt on math: computing" in err
    lines = lines_of(whole)
    kept = next(i for i, line in enumerate(lines) if b'"name":"shortgpt"' in line and i > 0)
    killed.mkdir()
    (killed / "record.jsonl").write_bytes(b"".join(lines[: kept + 1]))  # not asked yet
    code, _, err = run_command(*words, killed)
    assert code == 0, err
    assert "shortgpt on math: computing" not in err
    assert "sleb on math: computing" in err
    ours, theirs = read_run(killed), read_run(whole)
    assert [t.tailoring for t in ours.trials] == [t.tailoring for t in theirs.trials]
    assert ours.on_test == theirs.on_test
    sources = {s.member for t in ours.trials for spec in t.tailoring.layers for s in spec.sources}
    assert sources == {"math"}


def test_cuts_are_refitted_before_they_are_scored(
    job: Callable[..., Path], small: dict[str, Any], tmp_path: Path, run_command: Command
) -> None:
    config = job(**small, repair="refit")
    run = tmp_path / "run"
    words = ("baseline", "last_n,flatten,wanda_sp,fold,laco", config, "--out", run)
    code, _, err = run_command(*words)
    assert code == 0, err
    record = read_run(run)
    assert not [entry for entry in record.entries if isinstance(entry, RefittedEntry)]
    by_name = {name: entry.tailoring for name, entry in record.baselines.items()}
    assert [trial.tailoring for trial in record.trials] == list(by_name.values())
    assert all(trial.complete for trial in record.trials)
    refits = {
        name: [spec.refit_to for spec in tailoring.layers if spec.refit_to is not None]
        for name, tailoring in by_name.items()
    }
    assert refits["last_n"] == [5, 6]  # the layer before the cut, and the one behind it
    assert record.baselines["last_n"].alone_layer_tokens > 300  # of its refit
    assert refits["flatten"]
    assert refits["fold"]
    assert refits["laco"]
    assert refits["wanda_sp"] == []  # nothing is missing in it
    for fitted in [spec.fitted for spec in by_name["last_n"].layers if spec.fitted]:
        assert (run / "fitted" / f"{fitted}.safetensors").exists()
    before = lines_of(run)
    assert run_command(*words)[0] == 0
    assert lines_of(run) == before
    plain = tmp_path / "plain"
    assert run_command("baseline", "last_n", job("plain", **small), "--out", plain)[0] == 0
    assert read_run(plain).trials[0].scores != record.trials[0].scores
    code, _, err = run_command("baseline", "wanda_sp", config, "--out", tmp_path / "narrow")
    assert code == 0, err
    assert len(read_run(tmp_path / "narrow").chosen_trial.tailoring.layers) == 6


POOL = """
from gptailor.workers.local import LocalPool

folders = []


def pool(evaluator, *, get_factory):
    if evaluator is not None:
        folders.extend(get_factory().fitted)
    return LocalPool(evaluator, group_size=16)
"""


def test_workers_look_for_new_weights_beside_the_record(
    job: Callable[..., Path],
    small: dict[str, Any],
    tmp_path: Path,
    run_command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "noting_pool.py").write_text(POOL, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = job(**small, workers="noting_pool:pool")
    code, _, err = run_command("baseline", "flatten", config, "--out", "run")
    assert code == 0, err
    import noting_pool

    assert noting_pool.folders == [tmp_path / "run" / "fitted"]
    assert [*noting_pool.folders[0].glob("*.safetensors")]


def test_calibration_texts_that_changed_are_named(
    job: Callable[..., Path], small: dict[str, Any], tmp_path: Path, run_command: Command
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("Gold has the symbol Au.\n\nIron has the symbol Fe.", encoding="utf-8")
    config = job(**small | {"calibration": {"texts": [str(texts)], "n_tokens": 64}})
    words = ("baseline", "shortgpt", config, "--out", tmp_path / "run")
    kept = texts.rename(tmp_path / "elsewhere.txt")
    code, _, err = run_command(*words)
    assert (code, "texts.txt: no such file" in err) == (2, True)
    assert not (tmp_path / "run").exists()
    kept.rename(texts)
    assert [run_command(*words)[0] for _ in range(2)] == [0, 0]
    before = lines_of(tmp_path / "run")
    texts.write_text("Iron has the symbol Fe.", encoding="utf-8")
    code, _, err = run_command(*words)
    assert code == 2
    assert "the calibration texts changed since this record began" in err
    assert lines_of(tmp_path / "run") == before


def test_a_wrong_request_is_answered_with_sentences(
    config: Path, tmp_path: Path, run_command: Command
) -> None:
    code, _, err = run_command("baseline", "slep", config, "--member", "nobody")
    assert code == 2
    assert "unknown baseline 'slep'; did you mean 'sleb'? known: random, last_n" in err
    assert "unknown member 'nobody'" in err
    code, _, err = run_command("baseline", "sleb", config, "--option", "sleb.n_tokens=0")
    assert code == 2
    assert "--option sleb.n_tokens: must be a whole number from 1 to" in err
    twice = ("--option", "sleb.n_tokens=5") * 2
    code, _, err = run_command("baseline", "sleb", config, *twice)
    assert (code, "--option sleb.n_tokens: is given twice" in err) == (2, True)
    code, _, err = run_command("baseline", "sleb", config, "--option", "n_tokens=5")
    assert (code, "sleb.n_tokens=4096" in err) == (2, True)
    code, _, err = run_command("baseline", PLUS[0], config, "--out", tmp_path / "plus")
    assert code == 2
    assert f"the baseline {PLUS[0]} on base: it may cut 0 of 6 layers only" in err


@pytest.mark.parametrize("lost", [False, True])
def test_texts_that_can_not_be_used_are_refused_before_a_run_begins(
    lost: bool,
    job: Callable[..., Path],
    small: dict[str, Any],
    tmp_path: Path,
    run_command: Command,
) -> None:
    texts = tmp_path / "texts.txt"
    if not lost:
        texts.write_text("Gold has the symbol Au.\n\nIron has the symbol Fe.", encoding="utf-8")
    calibration = {"texts": [str(texts)]}
    config = job(**small | {"calibration": calibration, "repair": "none" if lost else "refit"})
    told = "texts.txt: no such file" if lost else "a refit needs 8 rows or more, of which"
    out = ("--out", tmp_path / "run")
    commands = [("check", config), ("baseline", "last_n", config, *out)]
    if not lost:  # a search without repairs does not read them
        commands.append(("search", config, *out))
    for words in commands:
        code, _, err = run_command(*words)
        assert (code, told in err) == (2, True)
        assert not (tmp_path / "run").exists()
