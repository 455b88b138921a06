"""Healing as a user does it: from an export or a run to a stock checkpoint."""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gptailor.export.folder import MANIFEST

Command = Callable[..., tuple[int, str, str]]
SHORT = (
    "--length",
    16,
    "--tokens",
    256,
    "--batch-tokens",
    64,
    "--rank",
    2,
    "--learning-rate",
    0.01,
)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    words = ("Paris is a city.", "Two and two make four.", "Gold is a metal.")
    path.write_text("\n\n".join(f"{n}: {words[n % 3]}" for n in range(80)), encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_healed_model_is_a_stock_checkpoint_that_says_how_it_was_made(
    run: Path, texts: Path, tmp_path: Path, run_command: Command
) -> None:
    model, out = tmp_path / "model", tmp_path / "healed"
    assert run_command("export", run, "-o", model)[0] == 0
    words = ("--run", run, "--texts", texts, "--teacher", "math", "-o", out, *SHORT)
    code, stdout, err = run_command("heal", model, *words)
    assert code == 0, err
    assert "healing: 4/4 steps" in err
    facts = json.loads((out / "healing.json").read_text())
    assert f"{facts['after']:.3f} nats a token, before {facts['before']:.3f}" in stdout
    assert facts["files"].keys() == {"texts.txt"}
    assert facts["model"] == "model"  # no folder of who made it, for it is published
    assert not Path(facts["teacher"]).is_absolute()
    assert not (tmp_path / "healed.healing").exists()
    names = {path.name for path in out.iterdir()}
    assert names >= {"README.md", "tokenizer.json", "generation_config.json", MANIFEST}
    assert "tailoring.yaml" not in names
    card = (out / "README.md").read_text()
    assert "## Healed" in card
    own, _, before = card.partition("## The model before\n")
    assert own.partition("\n---\n")[2].lstrip().startswith("# healed\n\n## Healed\n")
    assert "made without training" not in own
    assert 'folder = "."' in own
    assert "from the teacher math (digest " in own  # not the folder on this machine
    for heading in ("### The family", "### Scores", "### The source of every layer"):
        assert heading in before
    assert "All that follows is about model (digest " in before
    for untrue in ("# model\n", "tailoring.yaml", "llama-quantize", "rebuilds the model"):
        assert untrue not in card
    assert "model-index" not in card.partition("\n---\n")[0]
    tokenizer = AutoTokenizer.from_pretrained(out)
    some = texts.read_text().split("\n\n")[:60]
    rows = [torch.tensor([[*tokenizer(text).input_ids, tokenizer.eos_token_id]]) for text in some]
    losses = []
    for folder in (model, out):
        stock = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            losses.append(sum(float(stock(row, labels=row).loss) for row in rows))
    assert losses[1] < losses[0]
    code, _, err = run_command("evaluate", out, "--run", run)
    assert code == 0
    assert "its scores are not saved" in err
    assert not (run / "evaluation.json").exists()


@pytest.mark.slow
def test_a_run_is_exported_first_and_a_stopped_healing_goes_on(
    run: Path, texts: Path, tmp_path: Path, run_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "healed", tmp_path / "healed.healing"
    command = ("heal", run, "--texts", texts, "--teacher", "base", "-o", out, "--layers", "cuts")
    shutil.copytree(run, tmp_path / "kept")
    import gptailor.cli.heal as verb

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(verb.errors, "print", lambda text, **_: stopped() if "3/4" in text else None)
        assert run_command(*command, *SHORT)[0] == 130
    assert (work / "model" / "config.json").is_file()
    code, _, err = run_command(*command, *SHORT, "--seed", 1)
    assert code == 2
    assert "healed.healing: was begun with another texts and training" in err
    other = tmp_path / "other"  # as if another run's result had been begun with this name
    shutil.copytree(run, other)
    record = (other / "record.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = next(json.loads(line) for line in record if '"chosen"' in line)
    numbers = {json.loads(line)["number"] for line in record if '"kind":"trial"' in line}
    able = min(numbers - {chosen["number"]})
    changed = chosen | {"number": able}
    changed.pop("tailoring", None)
    (other / "record.jsonl").write_text("".join([*record, json.dumps(changed) + "\n"]), "utf-8")
    code, _, err = run_command("heal", other, *command[2:], *SHORT)
    assert code == 2
    assert f"healed.healing: was begun with another result than that of {other}" in err
    code, stdout, err = run_command(*command, *SHORT, "--json")
    assert code == 0, err
    assert "exporting" not in err
    assert "healing: 1/4" not in err
    plain: dict[str, Any] = json.loads(stdout)
    assert plain["layers"]
    assert (out / "config.json").is_file()
    assert not work.exists()


def test_what_can_not_be_healed_is_refused_in_a_sentence(
    run: Path, pico_family: Any, texts: Path, tmp_path: Path, run_command: Command
) -> None:
    def refused(*words: object, whole: bool = False, last: Sequence[object] = ()) -> str:
        code, _, err = run_command("heal", *words, "-o", tmp_path / "out", *SHORT, *last)
        assert code == 2, err
        assert not (tmp_path / "out").exists()
        return err if whole else err.splitlines()[-1]

    base, given = pico_family.base, ("--texts", texts)
    assert "math' is no folder or file; to name a member" in refused(
        base, *given, "--teacher", "math"
    )
    assert "has no tailoring.yaml" in refused(
        base, *given, "--teacher", pico_family.variants["math"], "--layers", "cuts"
    )
    assert "has no config.json" in refused(tmp_path, *given, "--teacher", base)
    assert "unknown member 'mth'; did you mean 'math'?" in refused(run, *given, "--teacher", "mth")
    assert "--teacher: ./mth does not exist" in refused(run, *given, "--teacher", "./mth")
    assert "none.txt: no such file" in refused(base, "--texts", "none.txt", "--teacher", base)
    endless = ("--kl-weight", "inf")
    assert "Invalid value" in refused(base, *given, "--teacher", base, *endless, whole=True)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    assert "has no text" in refused(base, "--texts", empty, "--teacher", base)
    other = tmp_path / "other"
    shutil.copytree(base, other)
    plain = json.loads((other / "tokenizer.json").read_text())
    vocabulary = plain["model"]["vocab"]
    a, b = list(vocabulary)[10:12]
    vocabulary[a], vocabulary[b] = vocabulary[b], vocabulary[a]
    (other / "tokenizer.json").write_text(json.dumps(plain))
    assert "gives other numbers to tokens" in refused(base, *given, "--teacher", other)
    assert "must be all or cuts" in refused(base, *given, "--teacher", base, "--layers", "some")
    small = ("--length", 64, "--batch-tokens", 63)
    assert "a row alone has 64 tokens" in refused(base, *given, "--teacher", base, last=small)
    weights = ("--kl-weight", 0)
    assert "both are 0" in refused(base, *given, "--teacher", base, *weights)


def test_a_teacher_of_another_vocabulary_and_a_missing_library_are_refused(
    pico_family: Any,
    texts: Path,
    tmp_path: Path,
    tiny_model: Any,
    run_command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "wide"
    tiny_model("llama", vocab_size=336, num_hidden_layers=1).save_pretrained(other)
    AutoTokenizer.from_pretrained(pico_family.base).save_pretrained(other)
    words = ("heal", pico_family.base, "--texts", texts, "--teacher", other, "-o", tmp_path / "out")
    code, _, err = run_command(*words, *SHORT)
    assert code == 2
    assert "has a vocabulary of 336 tokens and" in err
    monkeypatch.setitem(sys.modules, "peft", None)
    for name in ("gptailor.app.heal_model", "gptailor.heal.distillation"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    code, _, err = run_command(*words, *SHORT)
    assert code == 2
    assert "heal needs peft, which is not installed; run: pip install" in err
