"""Scores beside written texts: shares of a member's score stand with that above chance."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gptailor.core.tailoring import BASE
from gptailor.core.trial import Measurement, Scores
from gptailor.record.evaluation_file import SampledModel, SamplesFile
from gptailor.record.run_record import read_run
from gptailor.report import write_report
from gptailor.report.grid import Grid
from gptailor.report.writing import writing
from gptailor.tasks.greedy_text import FAULTS, GREEDY_TEXT

MakeRun = Callable[..., Path]


def right(share: float) -> Measurement:
    """Fifty choices, of which a share is right."""
    return Measurement("acc", tuple(float(n < 50 * share) for n in range(50)))


def sampled_run(folder: Path, shares: dict[str, float]) -> Path:
    """A run on one task of choices; members and last_n have these shares right."""
    path = folder / "record.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        if line["kind"] == "test":
            share = shares[line.get("member", "result")]
            line["scores"]["mmlu"] |= Scores({"mmlu": {"acc": right(share)}}).to_plain()["mmlu"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    run = read_run(folder)
    assert run.result is not None
    greedy = {metric: Measurement(metric, (0.0, 1.0)) for metric in FAULTS}
    models = tuple(
        SampledModel(
            name=name,
            scores=Scores({"mmlu": {"acc": right(share)}, GREEDY_TEXT: greedy}),
            texts=("a",),
        )
        for name, share in shares.items()
    )
    SamplesFile(tailoring=run.result.digest, prompts=("b",), models=models).save(folder)
    return folder


def scores_of(run: Path) -> Grid:
    found = writing(read_run(run))
    assert found is not None
    assert found.scores is not None
    assert any("above chance: " in note for note in found.notes)
    return found.scores


@pytest.mark.parametrize("best", [BASE, "math"])
def test_a_share_above_chance_stands_below_each_share(make_run: MakeRun, best: str) -> None:
    folder = make_run(n_trials=3, tasks={"mmlu": "acc"}, variants=("math",), evaluates=False)
    shares = {BASE: 0.8, "math": 0.9 if best == "math" else 0.7, "last_n": 1.0, "result": 0.6}
    run = sampled_run(folder, shares)
    scores = scores_of(run)
    names = scores.head[1:]
    rows = {row[0]: dict(zip(names, row[1:], strict=True)) for row in scores.rows}
    members = list(dict.fromkeys([BASE, best]))  # last_n, although it has the most, is no member
    heads = [
        f"{what}\nof {name}" for name in members for what in ("score kept, mean", "above chance")
    ]
    assert list(rows) == [*heads, "mmlu\nacc ↑\nchance 0.250"]
    for name in members:
        kept, above = 0.6 / shares[name], (0.6 - 0.25) / (shares[name] - 0.25)
        assert rows[f"score kept, mean\nof {name}"]["result"].startswith(f"{kept:.1%}\n")
        assert rows[f"above chance\nof {name}"]["result"].startswith(f"{above:.1%}\n")
    text = write_report(run).read_text(encoding="utf-8")
    assert text.count("above chance<small>of ") == len(members)
    share = f"{0.6 / 0.8:.1%} of base"
    picture = text[text.index("result, mmlu: ") :].partition("</title>")[0]
    assert share in picture
    assert f"{(0.6 - 0.25) / (0.8 - 0.25):.1%} above chance" in picture


def test_a_base_at_chance_has_no_share_above_it(make_run: MakeRun) -> None:
    folder = make_run(n_trials=3, tasks={"mmlu": "acc"}, variants=(), evaluates=False)
    scores = scores_of(sampled_run(folder, {BASE: 0.26, "last_n": 0.2, "result": 0.24}))
    assert scores.rows[1] == ("above chance\nof base", *["at chance"] * 3)
