"""Start a search, a report or an export again and again, and kill it each time with SIGKILL.

    python killing.py CONFIG FOLDER --kills 100

Libraries, family and tasks are loaded once; each start is a fork, so that a hundred kills take
seconds. An undisturbed study goes into ``FOLDER/undisturbed``; killed ones, gone on with until they
end, into ``FOLDER/killed-N``. After each kill what stands on the disk is held against what stood
there before. ``FOLDER/kills.json`` says how many kills struck.
"""

import argparse
import gc
import json
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.torch import load_file

from gptailor.app.assemble import Assembly, assemble, open_study
from gptailor.app.costs import record_costs, record_forecast
from gptailor.config import load_config
from gptailor.core.tailoring import Tailoring
from gptailor.export import export_checkpoint
from gptailor.record.entries import TrialEntry
from gptailor.record.journal import Journal, read_record
from gptailor.record.ranking import BEST, FRONT, write_results
from gptailor.report import write_report

FORK = multiprocessing.get_context("fork")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    assembly = assemble(load_config(asked.config))
    undisturbed = asked.folder / "undisturbed"
    started = time.perf_counter()
    search(assembly, undisturbed)
    seconds = time.perf_counter() - started
    gc.freeze()  # a collection in a fork would copy every page of the libraries
    studies = kill_studies(assembly, asked.folder, rng, seconds=seconds, n_kills=asked.kills)
    chosen = Tailoring.load(undisturbed / BEST)
    struck = {
        "studies": studies,
        "reports": kill_reports(undisturbed, rng, n_kills=6),
        "exports": kill_exports(assembly, chosen, asked.folder / "out", rng, n_kills=6),
    }
    (asked.folder / "kills.json").write_text(json.dumps(struck), encoding="utf-8")


def search(assembly: Assembly, folder: Path) -> None:
    """What ``gptailor search`` does once everything is loaded."""
    with Journal(folder) as journal:
        study = open_study(assembly, journal, on_progress=lambda _: None)
        record_forecast(journal, assembly)
        _, chosen = study.run()
        record_costs(journal, assembly)
        write_results(folder, chosen, study.front(), study.objective)


def strike(job: Callable[[], object], after_s: float) -> bool:
    """Run a job in a forked process and kill it; whether it was still running."""
    process = FORK.Process(target=job)
    process.start()
    process.join(after_s)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), f"a start ended with {process.exitcode}"
    return process.exitcode == -9


def kill_studies(
    assembly: Assembly, folder: Path, rng: np.random.Generator, *, seconds: float, n_kills: int
) -> int:
    """Kill one study after another, each until it ends; how many kills struck."""
    struck = n_studies = 0
    while struck < n_kills:
        run = folder / f"killed-{n_studies}"
        n_studies += 1
        before = b""
        most = 0.3 * seconds  # so that most starts are killed
        while True:
            after_s = float(rng.uniform(0, most))
            most *= 1.02  # it ends even on a machine that has become slow
            killed = strike(lambda run=run: search(assembly, run), after_s)
            before = hold_record(run, before)
            hold_results(run)
            if not killed:
                break
            struck += 1
    return struck


def hold_record(run: Path, before: bytes) -> bytes:
    """Nothing that was recorded is lost or told twice; the whole lines there are now."""
    path = run / "record.jsonl"
    if not path.exists():
        assert not before, "the record is gone"
        return b""
    now = path.read_bytes()
    whole = now[: now.rfind(b"\n") + 1]
    assert whole.startswith(before), "what was recorded has changed"
    told = [e.number for _, e in read_record(path) if isinstance(e, TrialEntry)]
    assert told == sorted(set(told)), "a trial appears twice, or out of order"
    return whole


def hold_results(run: Path) -> None:
    if (run / BEST).exists():
        Tailoring.load(run / BEST)
    if (run / FRONT).exists():
        assert (run / FRONT).read_bytes().endswith(b"\n")


def kill_reports(run: Path, rng: np.random.Generator, *, n_kills: int) -> int:
    """Kill a report that replaces another; the old or the new stands there, whole."""
    started = time.perf_counter()
    page = write_report(run)
    seconds = time.perf_counter() - started
    whole = page.read_bytes()
    struck = 0
    while struck < n_kills:
        killed = strike(lambda: write_report(run), float(rng.uniform(0, seconds)))
        assert page.read_bytes() == whole
        struck += killed
        seconds *= 1.0 if killed else 0.9  # the first may have been slow
    return struck


def kill_exports(
    assembly: Assembly, tailoring: Tailoring, out: Path, rng: np.random.Generator, *, n_kills: int
) -> int:
    """Kill exports of two models in turn; one of the two stands there, whole."""
    family = assembly.family
    models = [tailoring, Tailoring.whole("base", family.n_layers)]
    sizes = []
    started = time.perf_counter()
    for model in models:
        export_checkpoint(family, model, out)
        sizes.append(
            sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values())
        )
    seconds = (time.perf_counter() - started) / 2
    struck = turn = 0
    while struck < n_kills:
        new = models[turn % 2]
        turn += 1
        done = not strike(
            lambda new=new: export_checkpoint(family, new, out), float(rng.uniform(0, seconds))
        )
        struck += not done
        seconds *= 0.9 if done else 1.0
        stands = Tailoring.load(out / "tailoring.yaml")
        assert stands == new or not done
        assert n_parameters(out) == sizes[models.index(stands)]
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        assert config["num_hidden_layers"] == len(stands.layers)
        listed = json.loads((out / "gptailor-export.json").read_text(encoding="utf-8"))["files"]
        files = [path for path in out.rglob("*") if path.is_file()]
        assert sorted(path.relative_to(out).as_posix() for path in files) == sorted(listed)
    return struck


def n_parameters(out: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values())


if __name__ == "__main__":
    main()
