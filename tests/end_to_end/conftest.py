"""A small job for the whole program: the pico family and three tasks made on the spot."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gptailor.app.assemble import assemble, open_study
from gptailor.config import load_config
from gptailor.record.journal import Journal

WORDS = ("Paris", "Rome", "gold", "iron", "two", "three", "seven", "add", "print", "symbol")


def _choice_lines(rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    lines = []
    for number in range(n):
        choices = [f" {word}" for word in rng.choice(WORDS, size=3, replace=False)]
        gold = int(rng.integers(3))
        lines.append({"query": f"Question {number}: which?", "choices": choices, "gold": gold})
    return lines


def _text_lines(rng: np.random.Generator, n: int) -> list[dict[str, Any]]:
    return [
        {"text": f"{number}: " + " ".join(rng.choice(WORDS, size=rng.integers(4, 9)))}
        for number in range(n)
    ]


def _write(folder: Path, name: str, lines: list[dict[str, Any]], **fields: Any) -> None:
    data = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{name}.jsonl").write_text(data, encoding="utf-8")
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"all": f"{name}.jsonl"}},
        "test_split": "all",
        **fields,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def write_job(pico_family: Any, folder: Path, **overrides: Any) -> Path:
    """Write a tailor.yaml and its tasks, with overrides; the config's path."""
    tasks = folder / "tasks"
    tasks.mkdir(parents=True)
    rng = np.random.default_rng(0)
    choice = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{query}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    text = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    _write(tasks, "which", _choice_lines(rng, 40), **choice)
    _write(tasks, "texts", _text_lines(rng, 40), **text)
    config: Mapping[str, Any] = {
        "family": {
            "base": str(pico_family.base),
            "variants": {name: str(path) for name, path in pico_family.variants.items()},
            "dtype": "float32",
        },
        "remove": 2,
        "guard": False,  # one test has it on; here it would only take time
        "tasks": [
            {"name": "./tasks/which.yaml", "metric": "acc"},
            {"name": "./tasks/texts.yaml", "metric": "bits_per_byte"},
        ],
        "budget": {"max_trials": 24, "n_examples": [4, 12], "finalists": 3},
        "engine": {"threads": 1},
    }
    path = folder / "tailor.yaml"
    path.write_text(yaml.safe_dump(dict(config) | overrides), encoding="utf-8")
    return path


@pytest.fixture
def job(pico_family: Any, tmp_path: Path) -> Callable[..., Path]:
    """Factory: writes a tailor.yaml and its tasks, with overrides; gives the config's path."""

    def make(name: str = "a job", **overrides: Any) -> Path:
        return write_job(pico_family, tmp_path / name, **overrides)  # a space, as users have

    return make


@pytest.fixture(scope="session")
def job_in(pico_family: Any) -> Callable[..., Path]:
    """Factory: writes a job into a folder, for runs that several tests share."""
    return functools.partial(write_job, pico_family)


@pytest.fixture(scope="session")
def finished(pico_family: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small job that was run once a session, to be copied: see `run`."""
    folder = tmp_path_factory.mktemp("finished") / "a job"
    budget = {"max_trials": 6, "n_examples": [4, 12], "finalists": 2}
    assembly = assemble(load_config(write_job(pico_family, folder, budget=budget)))
    with Journal(folder / "runs" / "one") as journal:
        open_study(assembly, journal, on_progress=lambda _: None).run()
    shutil.copytree(folder, folder.with_name("kept"))
    return folder


@pytest.fixture
def run(finished: Path) -> Path:
    """A finished run, as it was when it ended; its config lies two folders above."""
    shutil.rmtree(finished)  # the record names its tasks by their paths: these must stay
    shutil.copytree(finished.with_name("kept"), finished)
    return finished / "runs" / "one"
