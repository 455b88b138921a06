"""A small sound record, every kind of line in it, to be spoilt."""

import json
from collections.abc import Sequence
from typing import Any

LAYERS = ["base:0", "math:2", {"merge": "linear", "sources": ["base:3", "math:3"]}]
TAILORING = {"format": "gptailor/1", "embedding": "base", "head": "base", "layers": LAYERS}
MEASURED = {"value": 0.5, "values": [1.0, 0.0], "weights": [1.0, 2.0]}
SCORES = {"quiz": {"acc": MEASURED, "gold_bits_per_byte": MEASURED}}
ASKED = [
    {"number": n, "tailoring": TAILORING, "n_examples": 2, "origin": "random"} for n in range(2)
]
COST = {"seconds": 0.1, "layer_tokens": 5}
SOUND: list[dict[str, Any]] = [
    {
        "kind": "header",
        "format": "gptailor-record/1",
        "created": "2026-01-01T00:00:00+0000",
        "config": {
            "family": {"dtype": "float32"},
            "engine": {"device": "cpu"},
            "budget": {"n_examples": [2]},
        },
        "versions": {"torch": "2.9.0"},
        "machine": {"cpu": "x"},
        "seed": 0,
        "family": {
            "members": ["base", "math"],
            "paths": {"base": "x"},
            "n_layers": 4,
            "parameters": 9,
            "layer_parameters": [1, 1, 1, 1],
            "nbytes": 18,
            "notes": [],
            "digests": {"base": "b"},
        },
        "n_kept": 3,
        "goals": [{"task": "quiz", "metric": "acc", "weight": 1.0, "proxy": "gold_bits_per_byte"}],
        "rungs": [2],
        "tasks": {"quiz": {"search": 2, "selection": 1, "test": 1, "notes": [], "digest": "q"}},
    },
    {"kind": "reference", "member": "base", "scores": SCORES, "seconds": 0.1},
    {"kind": "asked", "proposals": ASKED},
    {
        "kind": "trial",
        "number": 0,
        "seconds": 0.1,
        "layer_tokens": 5,
        "elapsed": 1,
        "scores": SCORES,
    },
    {
        "kind": "trial",
        "number": 1,
        "seconds": 0.1,
        "layer_tokens": 5,
        "elapsed": 2,
        "failure": "no",
    },
    {"kind": "resumed", "time": "2026-01-01T00:00:00+0000", "elapsed": 2},
    {"kind": "truncated", "dropped_bytes": 7},
    {"kind": "finalist", "number": 0, "scores": SCORES, "seconds": 0.1},
    {"kind": "chosen", "number": 0, "n_tried": 1, "n_trials": 2, "reason": "best"},
    {"kind": "test", "number": 0, "scores": SCORES, "seconds": 0.1},
    {"kind": "baseline", "name": "sleb", "member": "base", "tailoring": TAILORING, **COST}
    | {"alone_layer_tokens": 9},
]


def bytes_of(lines: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)
