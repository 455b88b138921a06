"""A merge method of somebody else's package: the one of the how-to, word for word."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packages import install, run_fresh, run_python, shown, write_module
from safetensors.torch import load_file

PAGE = "how-to/add-a-merge-method.md"
NAME = "my_merges.median:median"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with the module of the how-to, not installed."""
    write_module(PAGE, tmp_path / "site" / "my_merges" / "median.py")
    (tmp_path / "site" / "my_merges" / "__init__.py").touch()
    return tmp_path / "site"


@pytest.fixture
def installed(package: Path) -> Path:
    """The same, with what an installation would make of its pyproject.toml."""
    install(PAGE, package)
    return package


def run_in(site: Path, script: str) -> str:
    done = run_python(site, "-c", script)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_config_imports_the_module_and_a_tailoring_does_not(
    package: Path, job: Callable[..., Path]
) -> None:
    config = job(merge=["task_arithmetic", NAME])
    done = run_fresh(
        package,
        "-c",
        f"""
import pickle, sys
from pathlib import Path
from gptailor.config import load_config
from gptailor.core.tailoring import Tailoring
from gptailor.errors import TailoringError

text = "{{format: gptailor/1, layers: [{{merge: '{NAME}', sources: ['math:1', 'code:1']}}]}}"
try:
    Tailoring.from_yaml(text)
except TailoringError as error:
    print(*error.problems)
assert "my_merges" not in sys.modules
config = load_config(Path({str(config)!r}))
assert "torch" not in sys.modules
one = Tailoring.from_yaml(text)
(spec,) = one.layers
assert spec.method == {NAME!r} and dict(spec.params) == {{"scale": 1.0}}, spec
assert pickle.loads(pickle.dumps(one)) == one
print(one.digest, spec)
""",
    )
    assert done.returncode == 0, done.stderr
    refused, accepted = done.stdout.splitlines()
    assert f"unknown merge method '{NAME}'; a module:attribute is imported only where" in refused
    assert "entry point in group gptailor.merge_methods" in refused
    assert accepted == f"7eb6140949282cca {NAME}(code:1, math:1, scale=1)"


@pytest.mark.slow
def test_a_module_that_is_not_there_or_holds_something_else_is_told(
    package: Path, job: Callable[..., Path]
) -> None:
    told = [
        run_python(package, "-m", "gptailor", "check", str(job(str(name), merge=[merge]))).stderr
        for name, merge in enumerate(
            ["my_merge.median:median", "my_merges.median:mean", "json:loads"]
        )
    ]
    assert "merge: merge method 'my_merge.median:median': there is no module 'my_merge'" in told[0]
    assert "merge: merge method 'my_merges.median:mean': my_merges.median has no such" in told[1]
    assert "merge: merge method 'json:loads' is a function; write @merge_method(...)" in told[2]


def test_from_python_the_function_itself_is_named(package: Path) -> None:
    (snippet,) = [text for text in shown(PAGE, "python") if "LayerSpec" in text]
    told = run_in(
        package,
        f"""{snippet}
assert merge(median, [base + 1, base + 2, base + 9], base, scale=0.5).tolist() == [1, 1, 1]
print(LayerSpec.of("math:4", "code:4", merge=median).method)
from gptailor.merge.ties import ties
print(LayerSpec.of("math:4", "code:4", merge=ties).method)
""",
    )
    assert told.split() == [NAME, "ties"]


@pytest.mark.slow
def test_it_is_searched_in_a_worker_reported_and_exported(
    package: Path, job: Callable[..., Path]
) -> None:
    config = job(
        merge=[NAME],
        budget={"max_trials": 6, "n_examples": [4], "finalists": 2},
        workers={"name": "local", "options": {"n_workers": 1}},
    )
    run = config.parent / "runs" / "tailor"
    searched = run_python(package, "-m", "gptailor", "search", str(config))
    assert searched.returncode == 0, searched.stderr
    refused = run_python(package, "-m", "gptailor", "export", str(run), "-o", str(run / "a"))
    words = ["--import", "my_merges.median", "-o", str(run.parent / "exported")]
    exported = run_python(package, "-m", "gptailor", "export", str(run), *words)
    assert exported.returncode == 0, exported.stderr
    told = run_in(  # a new process, which has the run alone
        package,
        f"""
import sys
import gptailor
run = gptailor.Run({str(run)!r})
print(run.report())
assert "my_merges" not in sys.modules  # a record imports nothing
import my_merges.median
merged = [t for t in run.trials if {NAME!r} in " ".join(map(str, t.tailoring.layers))]
print(run.export({str(run.parent / "model")!r}, trial=merged[0].number))
print(sum(t.complete for t in merged))
""",
    )
    report, model, n_complete = told.splitlines()
    if NAME in (run / "best.yaml").read_text(encoding="utf-8"):
        assert refused.returncode == 2
        assert "import its module (export: --import MODULE)" in refused.stderr
    assert "my_merges.median" in Path(report).read_text(encoding="utf-8")
    assert (Path(model) / "model.safetensors").is_file()
    assert int(n_complete) >= 1


@pytest.mark.slow
def test_by_an_entry_point_the_engine_and_the_export_find_it(
    installed: Path, pico_family: Any, pico: Any, tmp_path: Path
) -> None:
    variants = {name: str(path) for name, path in pico_family.variants.items()}
    run_in(
        installed,
        f"""
from pathlib import Path
import torch
from gptailor import LayerSpec, MemberSpec, Tailoring, export_checkpoint, load_family
from gptailor.engine import Engine

variants = {{name: MemberSpec(path=path) for name, path in {variants!r}.items()}}
family = load_family(MemberSpec(path={str(pico_family.base)!r}), variants, dtype=torch.float32)
merged = LayerSpec.of("code:1", "math:1", merge="median", scale=0.5)
tailoring = Tailoring((merged, LayerSpec.of("base:2")))
export_checkpoint(family, tailoring, Path({str(tmp_path / "model")!r}))
assert Engine(family).run([tailoring], [])
""",
    )
    key = "mlp.up_proj.weight"
    members = (pico.states[member][f"model.layers.1.{key}"] for member in ("base", "code", "math"))
    base, code, math = members
    found = load_file(tmp_path / "model" / "model.safetensors")[f"model.layers.0.{key}"]
    torch.testing.assert_close(found, base + 0.5 * ((code - base) + (math - base)) / 2)


@pytest.mark.slow
def test_the_contract_of_merge_methods_runs_on_it(installed: Path) -> None:
    words = [
        "tests/contracts/test_merge_methods.py",
        "-k",
        "median",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",  # a plug-in of pytest that a library has imported
        "ignore::pytest.PytestAssertRewriteWarning",
    ]
    done = run_python(installed, "-m", "pytest", *words)
    assert done.returncode == 0, done.stdout
    assert re.search(r"2\d passed", done.stdout), done.stdout
