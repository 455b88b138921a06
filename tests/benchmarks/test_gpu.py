"""The benchmark for GPUs runs from end to end in its tiny form, and what fails stops nothing."""

import importlib
import json
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    importlib.import_module("gpu_parts")  # before the processes are forked
    return importlib.import_module("gpu")


def figures(folder: Path, part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"gpu-{part}.json").read_text(encoding="utf-8"))
    return found


def test_every_part_leaves_its_figures(gpu: Any, tmp_path: Path) -> None:
    gpu.main(["--tiny", "--out", str(tmp_path)], start=ForkProcess)
    engine = figures(tmp_path, "engine")
    for shots in (0, 5):
        assert engine[f"{shots}_shot"]["failed"] == []
        assert engine[f"{shots}_shot"]["as_a_search_asks_s"] > 0
        assert engine[f"{shots}_shot_transformers"]["apart_nats_max"] < 1e-4
        assert engine[f"{shots}_shot_transformers"]["same_choice"] == 1
    products = ("linear", "aten::mm", "aten::addmm")  # by the CPU one of them takes the time
    lines = engine["profile"]["self_cpu_time_total"]
    assert any(name in line for line in lines for name in products)
    demo = figures(tmp_path, "demo")
    assert "a random one" in demo["model"]
    assert 0 < demo["torch.bfloat16 on cpu"]["nats_mean"] < 0.1
    assert figures(tmp_path, "offload")["limited_s"] > 0
    assert "tests/engine/test_device.py" in figures(tmp_path, "tests")["files"]
    for part in gpu.LIMITS_S:
        assert figures(tmp_path, part)["outcome"].startswith("done in")


def test_a_part_that_fails_or_takes_too_long_leaves_a_reason_and_the_others_run(
    gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured_then(ends: Any) -> Any:
        def part(note: Any, _: Any) -> None:
            note(known=1)
            ends()

        return part

    parts = importlib.import_module("gpu_parts").PARTS
    monkeypatch.setitem(parts, "engine", measured_then(lambda: 1 / 0))
    monkeypatch.setitem(parts, "demo", measured_then(importlib.import_module("signal").pause))
    monkeypatch.setitem(gpu.LIMITS_S, "demo", 0.5)
    names = ["engine", "demo", "compile"]
    gpu.main(["--tiny", "--out", str(tmp_path), "--parts", *names], start=ForkProcess)
    failed, stopped, skipped = (figures(tmp_path, part) for part in names)
    assert failed["known"] == stopped["known"] == 1
    assert failed["outcome"].startswith("failed in")
    assert failed["failure"] == "ZeroDivisionError: division by zero"
    assert stopped["outcome"] == "stopped after 0.5 s"
    assert skipped["skipped"] == "there is no GPU"
