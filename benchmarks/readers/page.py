"""Make docs/reference/readers.md of what measure.py has measured.

Usage: python benchmarks/readers/page.py
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FIGURES = ROOT / "benchmarks/results/readers.json"
PAGE = ROOT / "docs/reference/readers.md"
READERS = ("transformers 4", "vLLM", "llama.cpp")
TEXT = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
BY_TRANSFORMERS = "TransformersForCausalLM"  # what vLLM has no code of its own for
SHOWN = {"same": "same", "not read": "no", "not written": "-"}


def page_of(plain: dict[str, Any]) -> str:
    """The page of some figures."""
    rows = {(row["model_type"], row["reader"]): row for row in plain["rows"]}
    readers = [name for name in READERS if name in plain["versions"]]
    types = list(dict.fromkeys(row["model_type"] for row in plain["rows"]))
    notes: list[str] = []
    lines = [["`model_type`", *readers], ["---"] * (1 + len(readers))]
    for name in types:
        cells = [_cell(rows.get((name, reader)), notes) for reader in readers]
        lines.append([f"`{name}`", *cells])
    programs = ("transformers 5", *readers)
    versions = [f"{name.partition(' ')[0]} {plain['versions'][name]}" for name in programs]
    return TEXT.format(
        n_new=plain["n_new"],
        n_prompt=plain["n_prompt"],
        versions=f"Measured on {plain['date']} with {', '.join(versions)}.",
        table="\n".join(f"| {' | '.join(line)} |" for line in lines),
        notes="\n".join(f"{number}. {note}" for number, note in enumerate(notes, start=1)),
    )


def _cell(row: dict[str, str] | None, notes: list[str]) -> str:
    if row is None:
        return ""
    shown = SHOWN.get(row["result"], "other")
    if shown == "same":
        return "same, by transformers" if row["detail"] == BY_TRANSFORMERS else shown
    if "does not know model type" in row["detail"]:
        return shown
    note = f"{row['reader']}: {row['detail']}"
    if note not in notes:
        notes.append(note)
    return f"{shown} ({notes.index(note) + 1})"


if __name__ == "__main__":
    PAGE.write_text(page_of(json.loads(FIGURES.read_text(encoding="utf-8"))), encoding="utf-8")
