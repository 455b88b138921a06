"""An exception that nobody foresaw, in a stage behind the search: a sentence, and nothing lost."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import gptailor as gt

pytestmark = pytest.mark.slow

MODULE = """
import json
from pathlib import Path
from gptailor.core.metrics import Metric

def of_a_table(example):
    logprob = example.texts[0].logprob
    if logprob == int(logprob):  # made up: what a metric does to them is tried before the search
        return logprob
    table = json.loads(Path(__file__).with_name("table.json").read_text())
    return table[str(len(example.texts))] * logprob

margin = Metric(higher_is_better=True, meaning="from a table", measure=of_a_table)
"""


@pytest.fixture
def config(job: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job whose metric can't measure one of the unseen examples, which has fewer choices."""
    task = {"name": "./tasks/which.yaml", "metric": "tables:margin"}
    budget = {"max_trials": 4, "n_examples": [4], "finalists": 2}
    config = job(tasks=[task | {"test_task": "./tasks/unseen.yaml"}], budget=budget)
    tasks = config.parent / "tasks"
    lines = [json.loads(line) for line in (tasks / "which.jsonl").read_text().splitlines()]
    lines = [line | {"query": f"And {line['query']}"} for line in lines]
    lines[-1] |= {"choices": [" Oslo", " tin"], "gold": 0}
    (tasks / "unseen.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = (tasks / "which.yaml").read_text().replace("which", "unseen")
    (tasks / "unseen.yaml").write_text(text)
    (config.parent / "tables.py").write_text(MODULE)
    (config.parent / "table.json").write_text(json.dumps({"3": 1.0}))
    monkeypatch.syspath_prepend(config.parent)
    return config


def test_a_fault_on_the_test_split_is_one_sentence_and_the_same_command_goes_on(
    config: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    run = config.parent / "runs" / "tailor"
    code, out, err = run_command("search", config)
    *_, note, told = err.splitlines()
    assert (code, out) == (1, "")
    assert note == f"note: the choice is in {run / 'best.yaml'}: gptailor export {run} -o DIR"
    assert told == (
        f"error: scoring on unseen examples failed: KeyError: '2' (traceback in "
        f"{run / 'traceback.txt'}); what {run} has recorded is kept: mend the cause and run the "
        "same command to go on"
    )
    assert "in of_a_table\n" in (run / "traceback.txt").read_text()
    code, _, err = run_command("export", run, "-o", config.parent / "model")
    assert code == 0, err
    chosen, n_lines = gt.Tailoring.load(run / "best.yaml"), len((run / "record.jsonl").read_bytes())
    (config.parent / "table.json").write_text(json.dumps({"3": 1.0, "2": 1.0}))
    code, out, err = run_command("search", config)
    assert code == 0, err
    assert gt.Run(run).tailoring == chosen
    assert (run / "record.jsonl").read_bytes()[:n_lines].count(b'"kind":"trial"') == 4
    (config.parent / "table.json").write_text(json.dumps({"3": 1.0}))
    replace(chosen, layers=chosen.layers[1:]).save(config.parent / "shorter.yaml")
    asked = ("--tailoring", config.parent / "shorter.yaml", "--config", config, "--no-speed")
    code, _, err = run_command("compare", run, *asked)
    assert code == 1
    assert err.splitlines()[-1].startswith("error: comparing failed: KeyError: '2' (traceback in ")


def test_a_fault_of_the_system_while_finalists_are_repaired_is_one_sentence(
    job: Callable[..., Path], run_command: Callable[..., tuple[int, str, str]]
) -> None:
    budget = {"max_trials": 2, "n_examples": [4], "finalists": 1}
    config = job(repair="refit", calibration={"n_tokens": 512}, budget=budget)
    run = config.parent / "runs" / "tailor"
    run.mkdir(parents=True)
    (run / "fitted").touch()  # where a folder is to be
    code, out, err = run_command("search", config)
    assert (code, out) == (1, "")
    assert "" not in err.splitlines()
    *_, told = err.splitlines()
    assert told.startswith("error: refitting a finalist failed: FileExistsError: ")
    assert (run / "record.jsonl").read_bytes().count(b'"kind":"trial"') == 2
