"""Members in files: how much memory a limit leaves, what it costs, and that scores stay the same.

Each limit is a process of its own that loads the family and scores a parent and its swap children.
Memory is what the process holds (resident, mapped files counted), sampled while it scores; loading
is told apart.

    python benchmarks/memory.py --out benchmarks/results
"""

import argparse
import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import keep, machine, peak_mib, table, told_of

from engine import children, config_of
from gptailor.app.assemble import assemble
from gptailor.core.trial import Job

HERE = Path(__file__).resolve().parent
MIB = 2**20


def main() -> None:
    """Measure without a limit and with several; print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE.parent / "examples/smollm2/tailor.yaml")
    parser.add_argument("--limits", type=int, nargs="*", default=[0, 256, 64, 16], help="MiB")
    parser.add_argument("--point", type=int, help="measure one limit and print it as JSON")
    parser.add_argument("--out", type=Path, default=None, help="folder for the results")
    asked = parser.parse_args()
    if asked.point is not None:
        print(json.dumps(measured(asked.config, asked.point)))
        return
    told: dict[str, Any] = {"machine": machine()}
    told["limits"] = [point(asked.config, limit) for limit in asked.limits]
    keep(asked.out, "memory", told, text_of(told))


def point(config: Path, limit: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, "--config", str(config), "--point", str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(path: Path, limit: int) -> dict[str, Any]:
    """Load, score, sample."""
    config = config_of(path, "bfloat16", 40)
    engine = {"member_bytes": limit * MIB or None, "cache_bytes": 64 * MIB}
    config = config.model_copy(update={"engine": config.engine.model_copy(update=engine)})
    assembly = assemble(config)
    loading = peak_mib()
    rng = np.random.default_rng(0)
    parent = assembly.space.random(rng)
    group = [parent, *children(assembly, parent, rng, 15, {"swap": 1.0})]
    jobs = [Job(one, assembly.plan.sizes["test"], "test") for one in group]
    held: list[dict[str, float]] = []
    done = threading.Event()
    sampler = threading.Thread(target=sample, args=(held, done))
    sampler.start()
    started = time.perf_counter()
    scores = [one.scores for one in assembly.evaluator.evaluate(jobs)]
    seconds = time.perf_counter() - started
    done.set()
    sampler.join()
    plain = json.dumps([one.to_plain() for one in scores if one is not None])
    return {
        "limit_mib": limit,
        "seconds": seconds,
        "family_mib": assembly.family.nbytes / MIB,
        "brought_mib": assembly.evaluator.engine.layers.taken.n_bytes / MIB,
        "resident_mib": max(one["VmRSS"] for one in held),
        "of_its_own_mib": max(one["RssAnon"] for one in held),
        "loading_mib": loading,
        "scores": hashlib.sha256(plain.encode()).hexdigest()[:16],
    }


def sample(held: list[dict[str, float]], done: threading.Event) -> None:
    """Note what the process holds, every 50 ms."""
    while not done.wait(0.05):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        held.append({name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "RssAnon")})


def text_of(told: dict[str, Any]) -> str:
    """The table."""
    first = told["limits"][0]
    rows = [
        [
            f"{one['limit_mib']} MiB" if one["limit_mib"] else "none",
            f"{one['seconds']:.1f}",
            f"{one['seconds'] / first['seconds']:.2f}",
            f"{one['brought_mib']:,.0f}",
            f"{one['resident_mib']:,.0f}",
            f"{one['of_its_own_mib']:,.0f}",
            "yes" if one["scores"] == first["scores"] else "NO",
        ]
        for one in told["limits"]
    ]
    head = [
        "limit",
        "s",
        "time",
        "layers held, MiB",
        "resident MiB",
        "without files",
        "same scores",
    ]
    return "\n".join(
        [
            "# Members in files",
            "",
            told_of(told["machine"]),
            "",
            f"A family of {first['family_mib']:,.0f} MiB; 16 candidates, bfloat16.",
            "",
            table(head, rows),
        ]
    )


if __name__ == "__main__":
    main()
