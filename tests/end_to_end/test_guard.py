"""A guarded search with the objective of generation, from the config to report and card."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptailor.app.sample_prompts import PROMPTS
from gptailor.core.specs import GENERATION
from gptailor.core.statistics import RESULT
from gptailor.core.tailoring import BASE
from gptailor.core.trial import Job
from gptailor.family import Family
from gptailor.record.run_record import read_run
from gptailor.tasks.greedy_text import FAULTS, GREEDY_TEXT, PROBE
from gptailor.tasks.openers import GUARD_OPENERS, OPENERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def guarded(job_in: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    from gptailor.app.run import run_search
    from gptailor.config import load_config

    folder = tmp_path_factory.mktemp("guarded")
    tasks = [
        {"name": "./tasks/which.yaml", "metric": "acc"},
        {"name": "generation", "metric": "divergence", "member": "math", "weight": 0.5},
    ]
    budget = {"max_trials": 4, "n_examples": [4], "finalists": 2}
    keys = {"guard": True, "tasks": tasks, "budget": budget, "chat": {"chat_template": True}}
    config = load_config(job_in(folder, search="random", **keys))
    run_search(config, folder / "run")
    return folder / "run"


def test_the_record_has_the_texts_and_what_was_written_and_resumes(guarded: Path) -> None:
    from gptailor.app.run import run_search
    from gptailor.config import load_config

    record = read_run(guarded)
    assert record.own_texts is not None
    assert record.own_texts.member == "math"
    assert len(record.own_texts.texts) == 48
    goals = {goal.task: goal for goal in record.goals}
    assert goals[GENERATION].weight == 0.5
    facts = record.header.tasks[GENERATION]
    assert (facts.search, facts.selection, facts.test) == (16, 8, 8)
    assert record.test_scores["math"].value(GENERATION, "divergence") == 0.0
    assert record.test_scores[BASE].value(GENERATION, "divergence") > 0.0
    assert {BASE, RESULT} <= record.written.keys()
    for scores in record.written.values():
        assert scores.tasks.keys() == {GENERATION, GREEDY_TEXT, PROBE}
        assert len(scores.tasks[GREEDY_TEXT][FAULTS[0]].values) == 16
    before = (guarded / "record.jsonl").read_bytes()
    run_search(load_config(guarded.parent / "tailor.yaml"), guarded)
    assert (guarded / "record.jsonl").read_bytes() == before


def test_openers_are_messages_of_a_chat_and_no_two_uses_share_one(
    guarded: Path, pico: Family
) -> None:
    record, openers = read_run(guarded), [*OPENERS, *GUARD_OPENERS]
    assert len({*openers, *PROMPTS}) == len(openers) + len(PROMPTS)
    assert record.own_texts is not None
    for text, (prompt, _, _) in zip(openers, record.own_texts.texts, strict=True):
        message = [{"role": "user", "content": text}]
        asked = pico.tokenizer.apply_chat_template(message, add_generation_prompt=True)
        assert list(prompt) == asked["input_ids"]


def test_another_process_would_score_the_same_without_writing(guarded: Path) -> None:
    import pickle

    from gptailor.app.assemble import assemble
    from gptailor.app.greedy_tasks import recorded_texts
    from gptailor.app.settings import recorded_config

    record = read_run(guarded)
    texts = recorded_texts(record)
    here = assemble(recorded_config(record), own_texts=texts)
    factory = pickle.loads(pickle.dumps(here.evaluator_factory()))  # our own
    there = factory(device="cpu", threads=1)
    assert record.result is not None
    for job in (Job(record.result, 8, "test"), Job(record.result, 32, "guard")):
        ours, theirs = here.evaluator.evaluate([job]), there.evaluate([job])
        assert ours[0].scores == theirs[0].scores is not None
    assert ours[0].scores == record.written[RESULT]
    assert json.loads((guarded / "record.jsonl").read_text().splitlines()[1])["kind"] == "own_texts"


def test_report_and_card_have_a_row_for_every_detector(
    guarded: Path,
    run_command: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, problem = run_command("report", guarded)
    assert code == 0, problem
    page = (guarded / "report.html").read_text(encoding="utf-8")
    code, _, problem = run_command("export", guarded, "-o", tmp_path / "model")
    assert code == 0, problem
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for text in (page, card):
        assert text.count("What it writes") == 1
        section = text.partition("What it writes")[2]
        for row in ("repeated 4-grams", "loops", "empty", "unterminated", "flip rate", PROBE):
            assert row in section, row
        assert "All questions and texts went through the tokenizer" in text
    (source,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert "tokenizer.apply_chat_template(" in source
    monkeypatch.chdir(tmp_path / "model")
    exec(compile(source, "README.md", "exec"), {})  # as a reader copies it
    assert "What is the capital of France?" in capsys.readouterr().out


def test_lm_eval_evaluates_the_tasks_that_it_knows(
    guarded: Path, run_command: Callable[..., Any], tmp_path: Path
) -> None:
    code, _, problem = run_command("export", guarded, "-o", tmp_path / "model")
    assert code == 0, problem
    code, out, problem = run_command("evaluate", tmp_path / "model", "--run", guarded, "--json")
    assert code == 0, problem
    assert GENERATION not in out
    assert "which" in out
