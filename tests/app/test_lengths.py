"""Inputs longer than the model's own length, under all its names, and texts that are empty."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptailor import evaluate, family_of, load_tasks
from gptailor.app.inputs import max_length_of
from gptailor.app.run import run_search
from gptailor.app.sample_run import sample
from gptailor.config import config_of
from gptailor.errors import ConfigError
from gptailor.evaluation.side_by_side import expected_work
from gptailor.tasks.lm_eval.evaluate_model import evaluate_model

N_POSITIONS = 48  # no power of two: the engine must not round it up
SIZES = {"n_embd": 32, "n_head": 4}
OPT = {"word_embed_proj_dim": 32, "ffn_dim": 48, "do_layer_norm_before": True}
MODELS = {  # the first two call their length n_positions
    "gpt2": SIZES,
    "gptj": SIZES | {"rotary_dim": 4},
    "opt": OPT,
    "llama": {},
}
ROLLING = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": name} for name in ("bits_per_byte", "word_perplexity")],
}
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": ["Paris", "Rome"],
    "doc_to_target": 0,
    "metric_list": [{"metric": "acc"}],
}
WORDS = "gold iron Paris Rome three and two make five; capital symbol is the of return print add"
# without repetitions: lm-eval takes equal windows of two texts for one
LONG = " ".join(f"{word}{place * 37 % 23}" for place, word in enumerate(WORDS.split() * 3))


def tasks_of(folder: Path) -> list[dict[str, Any]]:
    """Texts of three lengths, one of them empty, whole and as questions."""
    texts = ["", LONG[:40], LONG, "Gold", LONG[61:], "", "Au", LONG[9:152], "iron is Fe", "five"]
    asked = []
    for name, keys, metric in (("roll", ROLLING, "bits_per_byte"), ("quiz", CHOICE, "acc")):
        kept = texts if name == "roll" else [text for text in texts if text]
        lines = [json.dumps({"text": text}) for text in kept]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        data = {"data_files": {"test": f"{name}.jsonl"}}
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps(task | keys), encoding="utf-8")
        asked.append({"name": str(folder / f"{name}.yaml"), "metric": metric})
    return asked


@pytest.mark.parametrize("model_type", MODELS)
def test_long_and_empty_texts_score_what_lm_eval_scores_at_the_models_own_length(
    model_type: str, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    fields = {"num_hidden_layers": 2, "max_position_embeddings": N_POSITIONS}
    model = tiny_model(model_type, **fields, **MODELS[model_type])
    family = family_of(model, {}, tiny_tokenizer)
    tasks = load_tasks(tasks_of(tmp_path), family, shares=(0.2, 0.2, 0.6))

    ours = evaluate("base", family, tasks)
    theirs = evaluate_model(model, tasks, tokenizer=tiny_tokenizer)  # finds the length itself

    for name, splits in tasks.items():
        for metric in splits.test.metrics:
            found, wanted = (each.tasks[name][metric] for each in (ours, theirs))
            np.testing.assert_allclose(found.values, wanted.values, atol=3e-4)
            assert found.value == pytest.approx(wanted.value, rel=1e-4)
    notes = [note for splits in tasks.values() for note in splits.notes]
    assert any("roll" in note and "scored in windows" in note for note in notes)
    assert any("quiz" in note and "lose their beginning" in note for note in notes)
    assert all(f" the {N_POSITIONS} tokens" in note for note in notes if "longer" in note)
    with pytest.raises(ConfigError, match=rf"engine.max_length: is 49, .* made for {N_POSITIONS} "):
        max_length_of(family, N_POSITIONS + 1)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gpt2", "opt"])  # positions that are looked up in a table
def test_greedy_texts_and_speed_stay_within_the_models_own_length(
    model_type: str, tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    fields = {"num_hidden_layers": 3, "max_position_embeddings": N_POSITIONS}
    tiny_model(model_type, **fields, **MODELS[model_type]).save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    given = {
        "family": {"base": str(tmp_path / "base"), "dtype": "float32"},
        "target": {"speedup": 1.01},
        "tasks": [tasks_of(tmp_path)[0], {"name": "generation", "metric": "divergence"}],
        "search": "random",
        "budget": {"max_trials": 1, "n_examples": [2], "finalists": 1},
    }
    run_search(config_of(given, tmp_path / "tailor.yaml"), tmp_path / "run")
    record = sample(tmp_path / "run")
    assert record.own_texts is not None
    lengths = [len(prompt) + len(answer) for prompt, answer, _ in record.own_texts.texts]
    assert max(lengths) == N_POSITIONS


def test_the_work_of_an_evaluation_is_what_lm_eval_runs(
    tmp_path: Path, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    model = tiny_model("llama", num_hidden_layers=2, max_position_embeddings=N_POSITIONS)
    family = family_of(model, {}, tiny_tokenizer)
    tasks = load_tasks(tasks_of(tmp_path), family, shares=(0.2, 0.2, 0.6))
    found, seconds = expected_work(family, tasks, max_length=N_POSITIONS, batch_size=1)
    n_run = []
    model.register_forward_pre_hook(lambda _, inputs: n_run.append(inputs[0].numel()))
    evaluate_model(model, tasks, tokenizer=tiny_tokenizer, batch_size=1)  # nothing is padded
    assert found == 2 * sum(n_run)
    assert seconds > 0
