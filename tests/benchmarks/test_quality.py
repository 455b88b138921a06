"""The benchmark of quality runs from end to end on tiny models, and goes on after a stop."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Measurement, Scores
from gptailor.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
WORDS = ("Paris", "Rome", "gold", "iron", "two", "three", "seven", "add", "print", "symbol")
CHOICES = ("arc_easy", "piqa", "commonsenseqa")


def _lines(name: str, n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    drawn = [[f" {word}" for word in rng.choice(WORDS, size=3, replace=False)] for _ in range(n)]
    if name not in CHOICES:
        return [{"text": f"{number}:{''.join(words)}"} for number, words in enumerate(drawn)]
    return [
        {"query": f"{number}: which?", "choices": words, "gold": int(rng.integers(3))}
        for number, words in enumerate(drawn)
    ]


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """The tasks of the suite ``mixed``, made on the spot."""
    folder, rng = tmp_path / "tasks", np.random.default_rng(0)
    folder.mkdir()
    for name in (*CHOICES, "gsm8k_bpb", "code_bpb"):
        choice = name in CHOICES
        for split, n in (("calib", 16), ("dev", 8)):
            lines = [json.dumps(line) for line in _lines(name, n, rng)]
            (folder / f"{name}.{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
            task = {
                "task": f"{name}_{split}",
                "dataset_path": "json",
                "dataset_kwargs": {"data_files": {split: f"{name}.{split}.jsonl"}},
                "test_split": split,
                "output_type": "multiple_choice" if choice else "loglikelihood_rolling",
                "doc_to_text": "{{query}}" if choice else "",
                "doc_to_target": "{{gold}}" if choice else "{{text}}",
                "metric_list": [{"metric": "acc_norm" if choice else "bits_per_byte"}],
            }
            task |= {"doc_to_choice": "{{choices}}"} if choice else {}
            (folder / f"{name}_{split}.yaml").write_text(json.dumps(task), encoding="utf-8")
    return folder


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


@pytest.mark.slow
def test_arms_are_run_judged_and_compared_and_go_on_after_a_stop(
    benchmark: Callable[[str], Any], tasks: Path, pico_family: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [
        "--family", pico_family.base.parent, "--tasks", tasks, "--out", out, "--suite", "mixed",
        "--arms", "random,evolution-all+refit,baselines@best", "--remove", 2, "--rungs", "2,4",
        "--baselines", "random,shortgpt,slimgpt", "--seeds", 1, "--layer-tokens", 60_000,
    ]  # fmt: skip

    def results() -> dict[str, Any]:
        benchmark("quality").main([str(word) for word in words])
        told = json.loads((out / "mixed/quality-mixed.json").read_text(encoding="utf-8"))
        for row in told["arms"]:
            del row["seconds"]
        return told

    told = results()
    rows = {row["arm"]: row for row in told["arms"]}
    assert {"base", "math", "code", "chat", "random", "random@best", "random@best+refit"} < set(
        rows
    )
    assert rows["random"]["seeds"] == rows["evolution-all+refit, unrepaired"]["seeds"] == [1]
    assert rows[told["best_member"]]["of_best"] == [1, 1, 1]
    assert "evolution-all+refit less random@best+refit" in {one["claim"] for one in told["claims"]}
    assert {point["arm"] for point in told["curves"]} == {"random", "evolution-all+refit"}
    assert (out / "mixed/quality-mixed.svg").read_text(encoding="utf-8").startswith("<svg xmlns")

    stopped, other = (out / f"mixed/runs/{name}/1" for name in ("random", "baselines@best"))
    ended = (other / "record.jsonl").stat()
    lines = (stopped / "record.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "record.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    (stopped / "best.yaml").unlink()
    next((out / "mixed/judged").iterdir()).unlink()
    assert results() == told
    assert (other / "record.jsonl").stat() == ended

    # another machine goes on from the file alone
    shutil.copy(out / "mixed/quality-mixed.jsonl.gz", tmp_path / "beside.jsonl.gz")
    shutil.rmtree(out)
    words += ["--steps", "table", "--beside", tmp_path / "beside.jsonl.gz"]
    again = results()
    assert again["curves"] == told["curves"]
    for ours, theirs in zip(again["arms"], told["arms"], strict=True):
        assert ours["acc_norm"] == theirs["acc_norm"]
        assert ours["bits"] == pytest.approx(theirs["bits"], abs=1e-4)
    words += ["--judge-limit", 3]
    with pytest.raises(UserError, match=r"beside\.jsonl\.gz: was judged on other examples"):
        results()


def test_claims_are_of_pairs_of_examples_and_of_drawn_seeds(
    benchmark: Callable[[str], Any],
) -> None:
    tables = benchmark("quality_tables")
    rng = np.random.default_rng(0)
    bits = rng.random((2, 40))

    def judged(seed: int, right: np.ndarray, bits: np.ndarray) -> Any:
        metrics = {"acc_norm": right, "gold_bits_per_byte": bits}
        measured = {name: Measurement(name, tuple(v.tolist())) for name, v in metrics.items()}
        tailoring = Tailoring.whole("base", 2)
        found = benchmark("quality_arms").Found("an arm", seed, tailoring, 10, 1.0)
        return found, Scores({"quiz": measured})

    right = np.arange(40) % 2 == 0
    arms = {
        "base": [judged(0, np.ones(40), bits[0])],
        "random": [judged(seed, right, bits[0] + 1.5 + seed) for seed in (0, 1)],
        "evolution-all": [judged(0, right, bits[0] + 1)],
    }
    quality = tables.Quality(arms, "base", {"quiz": (0.25,)}, {})
    row = quality.row("evolution-all")
    assert row["of_best"][0] == 0.5
    assert row["of_best_above_chance"][0] == pytest.approx(0.25 / 0.75, abs=1e-5)
    claims = {claim["measure"]: claim for claim in quality.claims()}
    assert claims["acc_norm"]["value"] == [0, 0, 0]  # the same answers, whatever is drawn
    assert claims["acc_norm"]["met"] == "no"
    assert claims["bits"]["value"] == [-1, -1.5, -0.5]  # both seeds, or one of them twice
    assert claims["bits"]["met"] == "yes"
