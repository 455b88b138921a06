"""A domain's teacher is the member that a slow sum of losses says."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from gptailor.app.assemble import assemble
from gptailor.config import config_of
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Job
from gptailor.errors import ConfigError

DOMAINS = ("gold", "verse", "code")


@pytest.fixture
def plain(low_family: Any, tmp_path: Path) -> dict[str, Any]:
    """A config with three domains of texts; members of two layers."""
    for seed, name in enumerate(DOMAINS):
        texts = [f"{name} {'abcxyz'[(seed + n) % 6] * (1 + n % 5)} is {n}." for n in range(20)]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return {
        "family": {
            "base": str(low_family.base),
            "variants": {name: str(path) for name, path in low_family.variants.items()},
            "dtype": "float32",
        },
        "remove": 1,
        "tasks": [
            {"name": f"{name}.jsonl", "metric": "divergence", "member": "auto"} for name in DOMAINS
        ],
        "worst_domain": True,
        "search": "random",
        "budget": {"max_trials": 4, "n_examples": [8], "finalists": 2},
    }


def _bits_per_byte(model: Any, examples: Any) -> float:
    nats = n_bytes = 0.0
    for example in examples:
        n_bytes += example.texts[0].n_bytes
        for passage in example.passages:
            (after,) = passage.continuations
            row = torch.tensor([[*passage.context, *after]])
            with torch.no_grad():
                logprobs = torch.log_softmax(model(row).logits[0].double(), -1)
            start = len(passage.context)
            nats -= sum(float(logprobs[start + n - 1, t]) for n, t in enumerate(after))
    return nats / n_bytes / math.log(2)


def test_the_teacher_is_the_member_with_the_lowest_loss(
    plain: dict[str, Any], low_family: Any, tmp_path: Path
) -> None:
    found = assemble(config_of(plain, tmp_path / "tailor.yaml"))
    folders = {"base": low_family.base, **low_family.variants}
    models = {n: AutoModelForCausalLM.from_pretrained(path) for n, path in folders.items()}
    for (name, splits), task in zip(found.tasks.items(), found.config.tasks, strict=True):
        losses = {
            split: {
                n: _bits_per_byte(m, splits.by_name[split].examples[:16]) for n, m in models.items()
            }
            for split in ("search", "selection")
        }
        best, held_out = (min(each, key=each.__getitem__) for each in losses.values())
        assert task.member == splits.spec.member == best
        (note,) = [note for note in splits.notes if "teacher" in note]
        lowest = f"{best} {losses['search'][best]:.3f}"
        assert note.startswith(f"task {name!r}: its teacher is {best}: {lowest}")
        assert (f"held-out examples {held_out} is better" in note) == (held_out != best)
        teacher = Tailoring.whole(best, 2)
        (done,) = found.evaluator.evaluate([Job(teacher, 8, "search")])
        assert done.scores is not None
        assert done.scores.value(name, "divergence") == pytest.approx(0.0, abs=1e-5)
    assert all(goal.worst for goal in found.plan.goals)


def test_what_has_no_loss_or_no_domain_is_refused(plain: dict[str, Any], tmp_path: Path) -> None:
    plain["tasks"] = [{"name": "gold.jsonl", "metric": "bits_per_byte"}]
    with pytest.raises(ConfigError, match="worst_domain: says nothing where no task"):
        config_of(plain, tmp_path / "tailor.yaml")
    plain["family"]["variants"] = {"auto": plain["family"]["base"]}
    with pytest.raises(ConfigError, match="how a task asks for the best member"):
        config_of(plain, tmp_path / "tailor.yaml")
