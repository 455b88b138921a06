"""The main job in the forms users give it: few members, every searcher, other metrics, groups."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptailor.app.assemble import assemble, open_study
from gptailor.config import load_config
from gptailor.core.plugins import SEARCHERS
from gptailor.core.trial import Trial
from gptailor.record.journal import Journal

pytestmark = pytest.mark.slow

Job = Callable[..., Path]


def search(config: Path) -> tuple[Trial, list[dict[str, Any]]]:
    """Run a search in this process; the chosen trial and the record's entries."""
    assembly = assemble(load_config(config))
    with Journal(config.parent / "run") as journal:
        study = open_study(assembly, journal, on_progress=lambda _: None)
        number, _ = study.run()
        return study.trials[number], [entry.to_plain() for entry in journal.entries]


@pytest.mark.parametrize("name", SEARCHERS.names)
def test_every_searcher_runs_the_whole_road(job: Job, name: str) -> None:
    if name in ("smac", "optuna"):
        pytest.importorskip(name)
    budget = {"max_trials": 40, "n_examples": [4, 12], "finalists": 2}
    chosen, entries = search(job(search={"name": name}, budget=budget))
    assert chosen.complete
    assert len(chosen.tailoring.layers) == 4
    assert [e["kind"] for e in entries].count("test") == 5


@pytest.mark.parametrize("n_variants", [0, 1])
def test_a_base_alone_or_with_one_variant_is_enough(
    job: Job, pico_family: Any, n_variants: int
) -> None:
    variants = dict(list(pico_family.variants.items())[:n_variants])
    family = {
        "base": str(pico_family.base),
        "variants": {name: str(path) for name, path in variants.items()},
        "dtype": "float32",
    }
    chosen, _ = search(job(family=family, budget={"max_trials": 20, "n_examples": [4, 12]}))
    assert {m for spec in chosen.tailoring.layers for m in spec.members} <= {"base", *variants}


def test_a_divergence_from_a_member_can_be_the_goal(job: Job) -> None:
    tasks = [{"name": "./tasks/texts.yaml", "metric": "divergence", "member": "base"}]
    chosen, entries = search(job(tasks=tasks, budget={"max_trials": 12, "n_examples": 4}))
    assert chosen.scores is not None
    assert chosen.scores.value("texts", "divergence") > 0
    (base,) = (e for e in entries if e["kind"] == "reference" and e["member"] == "base")
    assert base["scores"]["texts"]["divergence"]["value"] == pytest.approx(0, abs=1e-5)


def test_a_group_of_tasks_counts_as_lm_eval_counts_it(job: Job) -> None:
    config = job(tasks=[{"name": "./tasks/both.yaml", "metric": "acc"}])
    tasks = config.parent / "tasks"
    which = yaml.safe_load((tasks / "which.yaml").read_text())
    lines = (tasks / "which.jsonl").read_text().splitlines(keepends=True)
    for name, part in (("one", lines[:12]), ("two", lines[12:])):
        (tasks / f"{name}.jsonl").write_text("".join(part))
        files = {"data_files": {"all": f"{name}.jsonl"}}
        leaf = which | {"task": name, "dataset_kwargs": files}
        (tasks / f"{name}.yaml").write_text(yaml.safe_dump(leaf))
    mean = [{"metric": "acc", "aggregation": "mean", "weight_by_size": True}]
    group = {"group": "both", "task": ["one", "two"], "aggregate_metric_list": mean}
    (tasks / "both.yaml").write_text(yaml.safe_dump(group))
    chosen, entries = search(config)
    assert chosen.complete
    header = entries[0]
    counts = header["tasks"]["both"]
    assert counts["search"] + counts["selection"] + counts["test"] == 40


def test_no_layer_removed_still_finds_a_merge(job: Job) -> None:
    chosen, _ = search(job(remove=0, budget={"max_trials": 12, "n_examples": [4, 12]}))
    assert len(chosen.tailoring.layers) == 6


def test_the_record_can_be_read_by_anything_that_reads_json(job: Job) -> None:
    config = job(budget={"max_trials": 6, "n_examples": [4, 12]})
    search(config)
    lines = (config.parent / "run" / "record.jsonl").read_text(encoding="utf-8").splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds[0] == "header"
    assert {"reference", "asked", "trial", "finalist", "chosen", "test"} <= set(kinds)
