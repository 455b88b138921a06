"""What `import gptailor` offers, and what it costs."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import gptailor

PACKAGE = Path(gptailor.__file__).parent
HEAVY = ("torch", "transformers", "lm_eval", "peft", "smac", "optuna", "rich", "typer")


def test_there_are_at_most_30_public_names_each_once() -> None:
    """Six are for a search from Python; the others are its parts, one by one."""
    assert len(gptailor.__all__) <= 30
    assert len(set(gptailor.__all__)) == len(gptailor.__all__)


@pytest.mark.parametrize("name", gptailor.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(gptailor, name) is not None


@pytest.mark.parametrize("name", [n for n in gptailor.__all__ if n not in ("__version__", "merge")])
def test_every_public_name_has_a_docstring(name: str) -> None:
    assert getattr(gptailor, name).__doc__


def test_dir_lists_the_public_names() -> None:
    assert dir(gptailor) == sorted(gptailor.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'tailor'"):
        _ = gptailor.tailor


def test_the_version_is_the_installed_one() -> None:
    assert gptailor.__version__ == importlib.metadata.version("gptailor")


def test_merge_is_the_module_whose_function_merges() -> None:
    assert gptailor.merge.merge.__name__ == "merge"


def test_importing_the_package_loads_nothing_heavy() -> None:
    told = f"import sys, gptailor; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_config_and_core_load_nothing_heavy() -> None:
    told = (
        "import sys; import gptailor.config, gptailor.convert.published; "
        "from gptailor.core import objective, plugins, statistics, tailoring, trial; "
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_what_a_module_calls_public_is_there_and_sorted_out(path: Path) -> None:
    """`__all__` names only what the module defines or imports, and every public definition."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    told = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets)
    ]
    if not told:
        return
    public = {node.value for node in ast.walk(told[0]) if isinstance(node, ast.Constant)}
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
    }
    assert defined <= public, f"{sorted(defined - public)} look public but are not told"
