"""The configs of large models run dry on members of their shape, and cost what their heads say."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("paper")


@pytest.mark.slow
@pytest.mark.sampled(2)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_of_a_large_model_runs_dry_and_fits_the_gpu_that_it_names(
    paper: Any, path: Path
) -> None:
    found = paper.paper_forecast(path, 40, (30, 30))
    assert found["n_trials"] == 40
    head = path.read_text(encoding="utf-8").partition("\nfamily:")[0]
    (weights,) = map(int, re.findall(r"Memory: (\d+) GB of weights", head))
    (gpu,) = map(int, re.findall(r"one GPU of (\d+) GB", head))
    assert round(found["gb"]["family"]) == weights
    config = paper.load_config(path)
    most = found["gb"]["family"] + config.engine.cache_bytes / 1e9 + found["gb"]["states"]
    assert most + 3 < gpu  # logits, products, what the allocator keeps


def test_the_time_between_evaluations_is_measured_in_tenths(paper: Any) -> None:
    found = paper.overhead(6, 3, 40)
    assert len(found["ms_a_trial"]) == 10
    assert all(ms > 0 for ms in found["ms_a_trial"])


def test_a_weight_that_is_read_is_noticed(paper: Any, tmp_path: Path) -> None:
    like = torch.empty(1024, 1024, device="meta")
    weight = paper._hole(tmp_path / "member", torch.bfloat16, [("weight", like)])["weight"]
    assert paper.read_bytes(str(tmp_path)) == 0
    (tmp_path / "member").unlink()  # as the members' files are, before they are counted
    assert weight[512].sum() == 0
    assert (paper.read_bytes(str(tmp_path)) > 0) == Path("/proc/self/smaps").exists()
