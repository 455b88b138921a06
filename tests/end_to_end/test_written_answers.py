"""A search on a task that generates: searched, chosen, exported, and judged by lm-eval alike."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from gptailor.app.run import Run
from gptailor.cli import app

WRITTEN = {
    "output_type": "generate_until",
    "doc_to_text": "{{query}}",
    "doc_to_target": "{{choices[gold]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 3},
    # random models write no gold answer; one letter of it they sometimes do
    "metric_list": [{"metric": "exact_match", "regexes_to_ignore": ["[^aeiou]", "(?<=.)."]}],
}


@pytest.mark.slow
def test_what_the_search_scored_lm_eval_scores_with_the_export(
    job: Callable[..., Path], tmp_path: Path
) -> None:
    config = job(
        tasks=[{"name": "./tasks/which.yaml", "metric": "exact_match", "limit": 8}],
        budget={"max_trials": 4, "n_examples": [2, 4], "finalists": 2},
    )
    task = config.parent / "tasks" / "which.yaml"
    plain: dict[str, Any] = yaml.safe_load(task.read_text())
    del plain["doc_to_choice"]
    task.write_text(yaml.safe_dump(plain | WRITTEN))

    def done(*words: object) -> str:
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.stdout

    checked = done("check", config)
    assert "writing:  the answers of which count as if each were as long as it may be" in checked
    planned = json.loads(done("check", config, "--json"))["layer_tokens"]
    done("search", config)
    run = Run(config.parent / "runs" / "tailor")
    metrics = {"exact_match", "gold_bits_per_byte"}
    assert all(set(t.scores.tasks["which"]) == metrics for t in run.trials if t.scores is not None)
    spent = run.record.spent
    assert spent is not None
    assert 0 < spent.layer_tokens <= planned
    done("export", run.folder, "-o", tmp_path / "model")
    table = json.loads(done("evaluate", tmp_path / "model", "--run", run.folder, "--json"))
    theirs = {row["model"]: row["value"] for row in table if row.get("task") == "which"}
    ours = {name: scores.value("which", "exact_match") for name, scores in run.scores.items()}
    assert theirs == ours
    assert len(set(ours.values())) > 1
    assert "exact_match" in Path(run.report()).read_text(encoding="utf-8")
