"""What models of a run write, against transformers' own generation; where it is shown; refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_runs import Sketch, write_run
from transformers import AutoModelForCausalLM

from gptailor.app.sample_prompts import N_SHOWN, PROMPTS
from gptailor.family import Family
from gptailor.record.evaluation_file import read_samples
from gptailor.record.run_record import read_run

Command = Callable[..., tuple[int, str, str]]
MODELS = ["base", "last_n", "result"]


def written(model: Any, tokenizer: Any, prompt: str) -> list[int]:
    """Greedy tokens of transformers, one prompt at a time."""
    tokens = torch.tensor([tokenizer.encode(prompt)])
    with torch.no_grad():
        found = model.generate(tokens, do_sample=False, max_new_tokens=64, pad_token_id=0)
    ids: list[int] = found[0, tokens.shape[1] :].tolist()
    return ids


@pytest.mark.slow
def test_texts_and_flips_are_those_of_transformers_and_every_page_shows_them(
    run: Path,
    pico: Family,
    pico_family: Any,
    run_command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gptailor.app.sample_run.PROMPTS", PROMPTS[:5])
    code, out, err = run_command("sample", run)
    assert code == 0, err
    samples = read_samples(run)
    assert samples is not None
    assert samples.prompts == PROMPTS[:N_SHOWN]
    models = {model.name: model for model in samples.models}
    assert [name for name in models if name in MODELS] == MODELS
    base = AutoModelForCausalLM.from_pretrained(pico_family.base)
    cut = AutoModelForCausalLM.from_pretrained(pico_family.base)
    cut.model.layers = torch.nn.ModuleList([*cut.model.layers[:3], cut.model.layers[5]])
    for layer, module in enumerate(cut.model.layers):
        module.self_attn.layer_idx = layer
    cut.config.num_hidden_layers = 4
    scores = models["last_n"].scores.tasks
    assert models["base"].scores.tasks["generation"]["flip_rate"].value == 0
    for index, prompt in enumerate(PROMPTS[:N_SHOWN]):
        ours, theirs = (written(model, pico.tokenizer, prompt) for model in (base, cut))
        for name, ids in (("base", ours), ("last_n", theirs)):
            text = pico.tokenizer.decode(ids, skip_special_tokens=True)
            assert models[name].texts[index] == text
        grams = [tuple(theirs[n : n + 4]) for n in range(len(theirs) - 3)]
        repeated = scores["greedy text"]["repeated_4grams"].values[index]
        assert repeated == pytest.approx(1 - len(set(grams)) / max(1, len(grams)), abs=1e-6)
        ids = pico.tokenizer.encode(prompt)
        with torch.no_grad():
            logits = cut(torch.tensor([[*ids, *ours]]), use_cache=False).logits[0]
        likeliest = logits[len(ids) - 1 : -1].argmax(-1).tolist()
        flips = [a != b for a, b in zip(likeliest, ours, strict=True)]
        rate = scores["generation"]["flip_rate"].values[index]
        assert rate == pytest.approx(sum(flips) / len(flips), abs=1e-6)
    result = models["result"]
    assert read_run(run).test_scores["result"].tasks.items() <= result.scores.tasks.items()
    assert run_command("report", run)[0] == 0
    assert run_command("export", run, "-o", tmp_path / "model")[0] == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    for text in (out, page, card):
        assert "last_n" in text
        assert "flip rate" in text
    assert " ".join(result.texts[0].split()) in out
    assert page.count("<dt>result</dt>") == card.count("**result**") == N_SHOWN
    assert "own flip rate" not in page
    plain = json.loads((run / "samples.json").read_text(encoding="utf-8"))
    base = next(model for model in plain["models"] if model["name"] == "base")
    base["scores"]["generation"]["flip_rate"]["values"][0] = 0.02  # as rounding in bfloat16 may
    (run / "samples.json").write_text(json.dumps(plain), encoding="utf-8")
    assert run_command("report", run)[0] == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "so base&#39;s own flip rate may be above 0" in page
    plain = samples.model_dump() | {"tailoring": "another"}
    (run / "samples.json").write_text(json.dumps(plain), encoding="utf-8")
    assert read_run(run).samples is None
    assert any("run 'gptailor sample' again" in note for note in read_run(run).notes)


def test_a_run_without_a_result_and_a_damaged_file_are_refused(
    run: Path, tmp_path: Path, run_command: Command
) -> None:
    code, _, err = run_command(
        "sample", write_run(tmp_path / "open", Sketch(n_trials=3, ends=False))
    )
    assert code == 2
    assert "has no result that was scored on the test split yet" in err
    plain = {"format": "gptailor-samples/1", "tailoring": "a", "prompts": ["b"], "models": []}
    plain["models"] = [{"name": "base", "scores": {}, "texts": []}]
    (run / "samples.json").write_text(json.dumps(plain), encoding="utf-8")
    code, _, err = run_command("report", run)
    assert code == 2
    assert "every model must have a text for each prompt" in err
    assert "run 'gptailor sample' again" in err
