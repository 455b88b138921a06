"""Explanations against transformers' own models, resumed, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_runs import Sketch, write_run
from transformers import AutoModelForCausalLM, PreTrainedModel

from gptailor.app.explain_run import explain
from gptailor.app.inputs import open_tasks
from gptailor.app.settings import recorded_config
from gptailor.core.changes import changes_of
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.family import Family
from gptailor.record.run_record import read_run
from gptailor.tasks.task import Outcome

Command = Callable[..., tuple[int, str, str]]


def built(pico_family: Any, tailoring: Tailoring) -> PreTrainedModel:
    """The model of a tailoring without repair, layer by layer from the members' own folders."""
    folders = {BASE: pico_family.base, **pico_family.variants}
    models = {name: AutoModelForCausalLM.from_pretrained(path) for name, path in folders.items()}

    def layer(spec: LayerSpec) -> torch.nn.Module:
        first, *_ = spec.sources
        module = models[first.member].model.layers[first.layer]
        return module

    model = models[tailoring.embedding.sources[0].member]
    model.model.layers = torch.nn.ModuleList(map(layer, tailoring.layers))
    model.model.norm = models[tailoring.outer_parts["norm"].sources[0].member].model.norm
    model.lm_head = models[tailoring.head.sources[0].member].lm_head
    return model.eval()


@torch.no_grad()
def plain_numbers(model: PreTrainedModel, task: Any, metric: str) -> list[float]:
    """A metric of each example: one forward for each continuation."""
    numbers = []
    for example in range(task.n_examples):
        outcomes: list[list[Outcome]] = []
        for passage in task.passages(example):
            outcomes.append([])
            for continuation in passage.continuations:
                tokens = torch.tensor([[*passage.context, *continuation]])
                logits = model(tokens, use_cache=False).logits[0, len(passage.context) - 1 : -1]
                wanted = torch.tensor(continuation)
                logprob = logits.log_softmax(-1).gather(1, wanted[:, None]).sum()
                greedy = bool((logits.argmax(-1) == wanted).all())
                outcomes[-1].append(Outcome(float(logprob), greedy, len(continuation)))
        numbers.append(task.measure(example, outcomes)[metric])
    return numbers


@pytest.mark.slow
def test_three_layers_are_recomputed_by_hand_and_nothing_is_scored_twice(
    run: Path, pico: Family, pico_family: Any, run_command: Command
) -> None:
    code, out, err = run_command("explain", run, "--json")
    assert code == 0, err
    record = read_run(run)
    assert record.result is not None
    changes = changes_of(record.result, record.header.family.members, 6)
    assert f"{len(changes)} changes to score" in err
    assert [e.tailoring for e in record.explained] == [c.tailoring for c in changes]
    tasks = open_tasks(recorded_config(record), pico)
    rows = {(r["position"], r["change"], r["member"]): r["differences"] for r in json.loads(out)}
    result = plain_numbers(built(pico_family, record.result), tasks["texts"].test, "bits_per_byte")
    weights = torch.tensor(tasks["texts"].test.weights("bits_per_byte", len(result)))
    weights /= weights.sum()
    for kind in ("taken", "dropped", "put back"):
        entry = next(e for e in record.explained if e.change == kind)
        ours = plain_numbers(
            built(pico_family, entry.tailoring), tasks["texts"].test, "bits_per_byte"
        )
        assert entry.scores is not None
        recorded = entry.scores.tasks["texts"]["bits_per_byte"].values
        assert recorded == pytest.approx(ours, abs=1e-4)
        gap = float((torch.tensor(ours) - torch.tensor(result)) @ weights)
        found = rows[entry.position, kind, entry.member]["texts bits_per_byte"]
        assert found["difference"] == pytest.approx(gap, abs=1e-4)
    size = (run / "record.jsonl").stat().st_size
    code, again, err = run_command("explain", run, "--json")
    assert (code, again) == (0, out)
    assert "to score" not in err
    assert (run / "record.jsonl").stat().st_size == size
    code, out, err = run_command("explain", run, "--task", "texts")
    assert code == 0
    assert "texts bits_per_byte, less that of the result" in out
    assert "proxy" not in out.split("Of ")[0]


def test_a_stopped_explanation_goes_on(run: Path) -> None:
    messages: list[str] = []

    class Stop(Exception):
        pass

    def stop(text: str) -> None:
        messages.append(text)
        if text.startswith("scored"):
            raise Stop

    with pytest.raises(Stop):
        explain(run, on_message=stop)
    n_scored = len(read_run(run).explained)
    assert n_scored == 16
    record = explain(run, on_message=messages.append)
    assert f"({n_scored} are scored already)" in " ".join(messages)
    assert len({e.tailoring for e in record.explained}) == len(record.explained) > n_scored


def test_a_run_without_a_result_and_an_unknown_task_are_refused(
    tmp_path: Path, run_command: Command
) -> None:
    open_run = write_run(tmp_path / "open", Sketch(n_trials=3, ends=False))
    code, _, err = run_command("explain", open_run)
    assert code == 2
    assert "has no result that was scored on the test split yet" in err
    code, _, err = run_command("explain", open_run, "--task", "capital")
    assert code == 2
    assert "did you mean 'capitals'?" in err.lower()
