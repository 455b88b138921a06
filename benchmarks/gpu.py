"""What one large GPU makes of the engine, in one command of at most eight minutes.

It needs no network and no installation of this package, and runs from a bare tree. Each part is a
process of its own with a limit to its time, and writes `gpu-PART.json` after each figure, so a
part that fails or is stopped leaves what it has:

- *engine*: a random family of four members of Llama-7B's shape in bfloat16, questions like MMLU's;
- *demo*: scores of a small model on the GPU and on the CPU, in float32 and bfloat16;
- *offload*: members in the CPU's memory, and a limit below their size;
- *compile*: `torch.compile` and CUDA graphs on a layer's call;
- *tests*: the tests marked `gpu`.

Without a GPU, or with `--tiny`, everything is small, and only shows that the script works.

    python benchmarks/gpu.py --out FOLDER
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LIMITS_S = {"engine": 200, "demo": 60, "offload": 60, "compile": 95, "tests": 55}
WHOLE_S = 470  # of eight minutes


def main(words: Sequence[str] | None = None, *, start: type[BaseProcess] = SpawnProcess) -> None:
    """Run the parts one after the other, each in such a process; print what each found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on any machine")
    parser.add_argument("--parts", nargs="+", choices=LIMITS_S, default=list(LIMITS_S))
    asked = parser.parse_args(words)
    started = time.monotonic()
    asked.out.mkdir(parents=True, exist_ok=True)
    for path in (ROOT / "src", ROOT / "benchmarks"):
        sys.path.insert(0, str(path))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for part in asked.parts:
        path = asked.out / f"gpu-{part}.json"
        path.unlink(missing_ok=True)
        left = WHOLE_S - (time.monotonic() - started)
        process = start(target=run, args=(part, path, asked.tiny))
        outcome = outcome_of(process, min(LIMITS_S[part], left))
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.write_text(json.dumps(found | {"outcome": outcome}, indent=2) + "\n", encoding="utf-8")
        print(f"== {part}: {outcome}")
        print("\n".join(f"{key}: {value}" for key, value in found.items() if key != "profile"))
    print(f"{time.monotonic() - started:.0f} s in all")


def outcome_of(process: BaseProcess, limit_s: float) -> str:
    """Start a process and end it after a time; how it ended."""
    if limit_s <= 0:
        return "skipped: the time is up"
    began = time.monotonic()
    process.start()
    process.join(limit_s)
    if process.is_alive():
        process.kill()
        process.join()
        return f"stopped after {limit_s:.1f} s"
    seconds = time.monotonic() - began
    return f"{'done' if process.exitcode == 0 else 'failed'} in {seconds:.1f} s"


def run(part: str, path: Path, tiny: bool) -> None:
    """Run a part here; whatever ends it is noted in its file."""
    found: dict[str, Any] = {}

    def note(**figures: Any) -> None:
        found.update(figures)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    try:
        parts = importlib.import_module("gpu_parts")
        setup = parts.Setup.of(tiny)
        note(**setup.facts())
        try:
            parts.PARTS[part](note, setup)
        except parts.Skipped as reason:
            note(skipped=str(reason))
    except BaseException as error:
        note(failure=f"{type(error).__name__}: {error}"[:2000])
        raise


if __name__ == "__main__":
    main()
