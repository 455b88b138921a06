"""Searches that repair cuts: what is recorded, gone on with, exported and told."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from gptailor.app.assemble import assemble
from gptailor.app.inputs import open_calibration
from gptailor.cli import main
from gptailor.config import load_config
from gptailor.core.repair import cuts_of, refit_cuts, repair_sentence, without_repair
from gptailor.core.tailoring import Tailoring
from gptailor.engine.batches import pack
from gptailor.engine.engine import Engine
from gptailor.engine.selfcheck import plain_logprobs
from gptailor.family import Family
from gptailor.family.fitted import digest_of
from gptailor.record.entries import ForecastEntry, ModelEntry, RefittedEntry
from gptailor.record.run_record import RunRecord, read_run
from gptailor.tasks.task import Passage

pytestmark = pytest.mark.slow

Command = Callable[..., tuple[int, str, str]]
Make = Callable[..., Path]
DOWN = "mlp.down_proj.weight"
BRIEF: dict[str, Any] = {
    "budget": {"max_trials": 10, "n_examples": [4, 8], "finalists": 2},
    "calibration": {"n_tokens": 3000, "max_length": 32},
    "keep": [0],  # a cut before the first layer is not repaired
}
COSTS = ("seconds", "elapsed", "layer_tokens", "time", "created", "config", "peak_bytes")


def gptailor(*words: object) -> None:
    """Run the command line in this process; it succeeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["gptailor", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code == 0


@pytest.fixture(scope="module")
def refitted(job_in: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The config of a finished search that refits."""
    config = job_in(tmp_path_factory.mktemp("refits") / "a job", repair="refit", **BRIEF)
    gptailor("search", config)
    return config


@pytest.fixture(scope="module")
def exported(refitted: Path) -> Path:
    """The chosen model as a checkpoint."""
    out = refitted.parent / "the model"
    gptailor("export", run_of(refitted), "-o", out)
    return out


def run_of(config: Path) -> Path:
    return config.parent / "runs" / "tailor"


def facts(run: Path) -> list[dict[str, Any]]:
    """The record without costs, and without what tells of stops."""
    lines = (run / "record.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    kept = [e for e in entries if e["kind"] not in ("resumed", "forecast", "spent")]
    return [{k: v for k, v in entry.items() if k not in COSTS} for entry in kept]


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def entries_of(record: RunRecord, kind: type) -> list[Any]:
    return [entry for entry in record.entries if isinstance(entry, kind)]


def test_finalists_are_refitted_recorded_scored_and_chosen_with_their_tensors(
    refitted: Path,
) -> None:
    run = run_of(refitted)
    record, best = read_run(run), Tailoring.load(run / "best.yaml")
    assert record.result == best
    for trial in record.trials:
        assert refit_cuts(trial.tailoring, 6) == trial.tailoring
    refits = entries_of(record, RefittedEntry)
    scored = [e.model for e in entries_of(record, ModelEntry) if e.kind == "refitted"]
    assert scored == [entry.number for entry in refits]
    models = set()
    for entry in refits:
        asked = record.proposals[entry.number].tailoring
        for tailoring in (entry.searched, entry.refitted):
            assert without_repair(tailoring) == without_repair(asked)
            ends = {cut.before: cut.end for cut in cuts_of(tailoring, 6)}
            if tailoring == entry.refitted:  # the layers behind the first cut, too
                first = min(-1 if before is None else before for before in ends)
                later = {n: s.position + 1 for n, s in enumerate(tailoring.layers) if n > first}
                ends = later | ends
            refits = {n: s.refit_to for n, s in enumerate(tailoring.layers) if s.repaired}
            assert refits == {n: end for n, end in ends.items() if n is not None} != {}
            for spec in tailoring.layers:
                if spec.repaired:
                    tensors = load_file(run / "fitted" / f"{spec.fitted}.safetensors")
                    assert list(tensors) == [DOWN]
                    assert digest_of(tensors) == spec.fitted
            models.add(tailoring)
    assert best in models
    named = {spec.fitted for tailoring in models for spec in tailoring.layers if spec.fitted}
    assert {path.stem for path in (run / "fitted").iterdir()} == named


def test_refits_see_search_examples_alone(refitted: Path) -> None:
    assembly = assemble(load_config(refitted))
    rows = open_calibration(assembly.config, assembly.family, assembly.tasks).rows
    (digest,) = {e.calibration for e in entries_of(read_run(run_of(refitted)), RefittedEntry)}
    assert assembly.repairs.calibration.digest == digest
    texts: dict[str, set[tuple[int, ...]]] = {"search": set(), "selection": set(), "test": set()}
    for splits in assembly.tasks.values():
        for split, found in texts.items():
            for example in splits.by_name[split].examples:
                for passage in example.passages:
                    found |= {passage.context + c for c in passage.continuations}
    found = {text[: len(row)] for row in rows for text in texts["search"]}
    assert sum(row in found for row in rows) > 30
    for split in ("selection", "test"):
        unseen = {text for text in texts[split] if len(text) > 4}
        assert unseen
        assert not any(row[: len(text)] == text for row in rows for text in unseen)


@pytest.mark.parametrize("stop", ["before", "first", "last"])
def test_a_search_killed_around_its_refits_goes_on_to_the_same_end(
    refitted: Path, stop: str
) -> None:
    run = run_of(refitted)
    wanted, best = facts(run), (run / "best.yaml").read_bytes()
    lines = (run / "record.jsonl").read_bytes().splitlines(keepends=True)
    refits = [n for n, line in enumerate(lines) if b'"kind":"refits"' in line]
    n_lines = {"before": refits[0], "first": refits[0] + 1, "last": refits[-1] + 1}
    kept = shutil.copytree(run, run.with_name(f"kept {stop}"))
    try:
        (run / "record.jsonl").write_bytes(b"".join(lines[: n_lines[stop]]))
        (run / "best.yaml").unlink()
        if stop == "before":
            shutil.rmtree(run / "fitted")
        gptailor("search", refitted)
        assert facts(run) == wanted
        assert (run / "best.yaml").read_bytes() == best
        files = [sorted((each / "fitted").iterdir()) for each in (run, kept)]
        assert [p.read_bytes() for p in files[0]] == [p.read_bytes() for p in files[1]]
    finally:
        shutil.rmtree(run)
        kept.rename(run)


def hold_logprobs(family: Family, tailoring: Tailoring, model: Any) -> None:
    """The engine's and a stock model's are the same."""
    passage = Passage((5, 9, 33, 12, 7, 60, 21, 8), ((17, 4, 90), (30, 31, 6)))
    (batch,) = pack([passage])
    (result,) = Engine(family).run([tailoring], [batch])
    torch.testing.assert_close(
        result.targets[0].logprob, plain_logprobs(model, batch.passages), rtol=0, atol=1e-4
    )


def test_a_refitted_model_is_a_stock_checkpoint_with_the_engines_logits(
    refitted: Path, exported: Path, pico: Family
) -> None:
    run = run_of(refitted)
    best = Tailoring.load(run / "best.yaml")
    assert Tailoring.load(exported / "tailoring.yaml") == best
    stock = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    pico.fitted.look_in(run / "fitted")
    hold_logprobs(pico, best, stock)
    for index, spec in enumerate(best.layers):
        if spec.fitted is not None:
            tensor = load_file(run / "fitted" / f"{spec.fitted}.safetensors")[DOWN]
            assert torch.equal(stock.state_dict()[f"model.layers.{index}.{DOWN}"], tensor)
    gptailor("report", run)
    told = repair_sentence(best)
    assert told.startswith("Cuts were repaired in closed form: original layer")
    for page in (exported / "README.md", run / "report.html"):
        text = page.read_text(encoding="utf-8")
        assert told in text
        assert all(str(spec.fitted) in text for spec in best.layers if spec.fitted)


def test_a_scaled_model_is_recorded_exported_and_told(
    job: Make, pico: Family, tmp_path: Path
) -> None:
    config = job(repair="scale", **BRIEF)
    gptailor("search", config)
    run, out = run_of(config), tmp_path / "out"
    record, best = read_run(run), Tailoring.load(run / "best.yaml")
    refits = entries_of(record, RefittedEntry)
    assert refits
    assert all(entry.refitted is None for entry in refits)
    assert all(entry.searched == record.proposals[entry.number].tailoring for entry in refits)
    assert best == record.result in [entry.searched for entry in refits]
    assert any(spec.gain != 1 for trial in record.trials for spec in trial.tailoring.layers)
    number = next(
        number
        for number, proposal in record.proposals.items()
        if any(spec.gain != 1 for spec in proposal.tailoring.layers)
    )
    gptailor("export", run, "-o", out, "--trial", number)
    made = Tailoring.load(out / "tailoring.yaml")
    assert made == record.proposals[number].tailoring
    assert not (out / "fitted").exists()
    stock = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    hold_logprobs(pico, made, stock)
    assert repair_sentence(made) in (out / "README.md").read_text(encoding="utf-8")


def test_a_tailoring_with_its_fitted_tensors_gives_the_same_weights_anywhere(
    refitted: Path, exported: Path, tmp_path: Path
) -> None:
    for number, source in enumerate((run_of(refitted) / "best.yaml", exported / "tailoring.yaml")):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(source, folder / "mine.yaml")
        shutil.copytree(source.with_name("fitted"), folder / "fitted")
        gptailor("export", refitted, "-o", folder / "out", "--tailoring", folder / "mine.yaml")
        assert weights(folder / "out") == weights(exported)


def test_fitted_tensors_that_are_missing_or_damaged_are_told_in_one_sentence(
    refitted: Path, exported: Path, tmp_path: Path, run_command: Command
) -> None:
    shutil.copy(exported / "tailoring.yaml", tmp_path)
    words = ("export", refitted, "-o", tmp_path / "out", "--tailoring", tmp_path / "tailoring.yaml")
    for damage, told in (
        (None, "are not there; put "),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "is damaged, its content has another"),
        (lambda data: data[:40], "can't be read"),
        (lambda _: b"", "can't be read"),
    ):
        if damage is not None:
            shutil.rmtree(tmp_path / "fitted", ignore_errors=True)
            shutil.copytree(exported / "fitted", tmp_path / "fitted")
            for path in (tmp_path / "fitted").iterdir():
                path.write_bytes(damage(path.read_bytes()))
        code, _, err = run_command(*words)
        assert code == 2
        errors = [line for line in err.splitlines() if "error: " in line]
        assert len(errors) == len(list((exported / "fitted").iterdir()))
        assert all(told in line for line in errors)
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()
    text = "{format: gptailor/1, layers: [{source: base:2, refit_to: 9}]}"
    (tmp_path / "tailoring.yaml").write_text(text, encoding="utf-8")
    code, _, err = run_command(*words)
    assert code == 2
    assert "layers[0]: refit_to is 9, beyond the 6 layers" in err


def test_an_ended_search_says_that_its_fitted_tensors_are_gone(
    refitted: Path, run_command: Command
) -> None:
    run = run_of(refitted)
    files = sorted((run / "fitted").iterdir())
    named = {s.fitted for s in Tailoring.load(run / "best.yaml").layers if s.fitted}
    (run / "fitted").rename(run / "elsewhere")
    try:
        code, _, err = run_command("search", refitted)
    finally:
        (run / "elsewhere").rename(run / "fitted")
    assert code == 2
    assert all(f"put {digest}.safetensors back into " in err for digest in named)
    assert run_command("search", refitted)[0] == 0
    assert sorted((run / "fitted").iterdir()) == files


def another(record: RunRecord) -> tuple[int, Tailoring]:
    """A trial that was not chosen, with a layer to refit: its number and what was asked for."""
    assert record.chosen is not None
    return next(
        (number, proposal.tailoring)
        for number, proposal in record.proposals.items()
        if number != record.chosen.number
        and any(spec.refit_to for spec in proposal.tailoring.layers)
    )


def test_another_trial_is_refitted_again(refitted: Path, exported: Path, tmp_path: Path) -> None:
    number, asked = another(read_run(run_of(refitted)))
    for out in (tmp_path / "once", tmp_path / "again"):
        gptailor("export", run_of(refitted), "-o", out, "--trial", number)
    assert weights(tmp_path / "once") == weights(tmp_path / "again") != weights(exported)
    made = Tailoring.load(out / "tailoring.yaml")
    assert without_repair(made) == without_repair(asked)
    states = load_file(out / "model.safetensors")
    for index, spec in enumerate(made.layers):
        assert (spec.fitted is None) == (asked.layers[index].refit_to is None)
        if spec.fitted is not None:
            fitted = load_file(out / "fitted" / f"{spec.fitted}.safetensors")
            assert torch.equal(states[f"model.layers.{index}.{DOWN}"], fitted[DOWN])


def test_what_is_fitted_again_needs_the_texts_of_the_search(
    job: Make, tmp_path: Path, run_command: Command
) -> None:
    texts = tmp_path / "texts.txt"
    known = "\n\n".join(f"Metal {number} has the symbol M{number}." for number in range(40))
    texts.write_text(known, encoding="utf-8")
    calibration = {"texts": [str(texts)], "n_tokens": 600, "max_length": 32}
    config = job(**BRIEF | {"calibration": calibration}, repair="refit")
    assert run_command("search", config)[0] == 0
    number, _ = another(read_run(run_of(config)))
    texts.write_text(known.replace("symbol", "sign"), encoding="utf-8")
    again = ("export", run_of(config), "-o", tmp_path / "out", "--trial", number)
    for words in (again, ("explain", run_of(config))):
        code, _, err = run_command(*words)
        assert (code, "the calibration texts changed since this record began" in err) == (2, True)
    assert not (tmp_path / "out").exists()
    # the chosen model's matrices are in files
    assert run_command("export", run_of(config), "-o", tmp_path / "chosen")[0] == 0
    texts.write_text(known, encoding="utf-8")
    assert run_command(*again)[0] == 0


def test_what_is_fitted_again_needs_the_examples_of_the_search(
    job: Make, tmp_path: Path, run_command: Command
) -> None:
    config = job(**BRIEF, repair="refit")
    assert run_command("search", config)[0] == 0
    number, _ = another(read_run(run_of(config)))
    data = config.with_name("tasks") / "which.jsonl"
    known = data.read_text(encoding="utf-8")
    data.write_text("".join(known.splitlines(keepends=True)[1:]), encoding="utf-8")
    again = ("export", run_of(config), "-o", tmp_path / "out", "--trial", number)
    for words in (again, ("explain", run_of(config))):
        code, _, err = run_command(*words)
        assert (code, "changed since this record began" in err) == (2, True)
    assert not (tmp_path / "out").exists()
    data.write_text(known, encoding="utf-8")
    assert run_command(*again)[0] == 0


def test_a_gguf_file_has_the_repaired_weights(
    refitted: Path, exported: Path, tmp_path: Path
) -> None:
    gguf = pytest.importorskip("gguf")
    gptailor(
        "export", run_of(refitted), "-o", tmp_path / "m.gguf", "--format", "gguf", "--dtype", "f32"
    )
    states = load_file(exported / "model.safetensors")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    found = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    for index in range(4):
        down = found[f"blk.{index}.ffn_down.weight"]
        assert torch.equal(down, states[f"model.layers.{index}.{DOWN}"])


def test_fits_are_counted_and_forecast(refitted: Path) -> None:
    record = read_run(run_of(refitted))
    (expected,) = entries_of(record, ForecastEntry)
    refits = entries_of(record, RefittedEntry)
    assert record.spent is not None
    assert all(entry.layer_tokens > 0 for entry in refits)
    assert record.spent.layer_tokens == pytest.approx(expected.layer_tokens, rel=0.2)
