"""Imports go strictly down the floors, and each big library has one door.

Read from the source with `ast`, imports inside functions included: a wing that is imported late is
still a wing that is known.
"""

import ast
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import gptailor

PACKAGE = Path(gptailor.__file__).parent

FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("files",),
    ("core",),
    ("config", "merge", "record", "searchers", "tasks", "workers", "convert"),
    ("family", "report", "study"),
    ("engine", "export", "evaluation"),
    ("repair", "heal"),
    ("baselines",),
    ("forecast",),
    ("app",),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}

# where a library may be imported; a trailing / stands for a whole package
DOORS = {
    "accelerate": {"family/"},
    "ConfigSpace": {"searchers/smac3.py"},
    "datasets": {"tasks/lm_eval/"},
    "gguf": {"family/gguf/", "export/gguf/"},
    "huggingface_hub": {"family/hub.py", "export/card.py", "export/push.py"},
    "jinja2": {"report/", "export/card.py", "tasks/lm_eval/"},
    "llama_cpp": {"evaluation/timing.py"},
    "lm_eval": {"tasks/lm_eval/"},
    "mergekit": set(),
    "optuna": {"searchers/optuna_tpe.py"},
    "pandas": {"app/run.py"},
    "peft": {"family/", "export/", "heal/"},
    "ray": {"workers/ray/"},
    "rich": {"cli/"},
    "smac": {"searchers/smac3.py"},
    "typer": {"cli/"},
    "yaml": {"files/yaml.py"},
}
# who may import the config; `__init__` exports it by name
SEE_CONFIG = {"config", "app", "cli", "__init__"}
NO_TORCH = {
    "errors",
    "files",
    "core",
    "config",
    "convert",
    "record",
    "report",
    "searchers",
    "study",
}
TORCH = {"torch", "transformers", "safetensors", "accelerate", "peft", "tokenizers"}


def _dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {_dotted(path) for path in FILES}


@dataclass(frozen=True)
class Import:
    """One module imported by one of our files."""

    path: str
    line: int
    module: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def imports_of(path: Path) -> Iterator[Import]:
    """Every import of a file; ``from a import b`` counts as ``a.b`` where b is a module of ours."""
    told = path.relative_to(PACKAGE).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(told, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{told}:{node.lineno}: relative import"
            module = node.module or ""
            deep = {f"{module}.{alias.name}" for alias in node.names} & MODULES
            yield from (Import(told, node.lineno, name) for name in sorted(deep) or [module])


def part_of(dotted: str) -> str:
    """The wing or word of ours that a module belongs to."""
    return [*dotted.split("."), "__init__"][1]


@cache
def imports() -> dict[Path, list[Import]]:
    """Every import of every file."""
    return {path: list(imports_of(path)) for path in FILES}


def every_import() -> Iterator[Import]:
    return itertools.chain.from_iterable(imports().values())


def ours() -> list[Import]:
    return [found for found in every_import() if found.module.split(".")[0] == "gptailor"]


def part_of_file(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_file_stands_on_a_floor(path: Path) -> None:
    assert part_of_file(path.relative_to(PACKAGE).as_posix()) in FLOOR


def test_imports_go_down_and_wings_do_not_see_each_other() -> None:
    wrong = []
    for found in ours():
        here, there = part_of_file(found.path), part_of(found.module)
        if here == there:
            continue
        if FLOOR[there] >= FLOOR[here]:
            wrong.append(str(found))
    assert not wrong, "\n".join(wrong)


def test_a_file_is_found_by_its_name() -> None:
    names = [path.name for path in FILES if path.name != "__init__.py"]
    assert len(names) == len(set(names)), sorted({one for one in names if names.count(one) > 1})
    assert len([path for path in FILES if path.parent == PACKAGE]) <= 5


def test_every_package_says_what_it_holds() -> None:
    for path in FILES:
        if path.name == "__init__.py":
            assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_no_part_imports_itself_in_a_circle() -> None:
    """Module by module: the words and the files inside a wing have an order, too."""
    edges: dict[str, set[str]] = {_dotted(path): set() for path in FILES}
    for path in FILES:
        if _dotted(path) != "gptailor":  # lazy, and it may know everything
            edges[_dotted(path)] |= {found.module for found in imports()[path]} & MODULES
    while free := [name for name, below in edges.items() if not below & edges.keys()]:
        for name in free:
            del edges[name]
    assert not edges, f"in circles: {sorted(edges)}"


@pytest.mark.parametrize("library", DOORS)
def test_a_big_library_has_one_door(library: str) -> None:
    wrong = [
        str(found)
        for found in every_import()
        if found.module.split(".")[0] == library and not _behind(found.path, DOORS[library])
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_is_unknown_where_words_searches_and_records_are() -> None:
    wrong = [
        str(found)
        for found in every_import()
        if found.module.split(".")[0] in TORCH and part_of_file(found.path) in NO_TORCH
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_wiring_and_the_command_line_know_the_config() -> None:
    wrong = [
        str(found)
        for found in ours()
        if part_of(found.module) == "config" and part_of_file(found.path) not in SEE_CONFIG
    ]
    assert not wrong, "\n".join(wrong)


def test_contributing_and_the_readme_list_the_packages_in_this_order() -> None:
    root = PACKAGE.parents[1]
    text = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## Layers of imports")[2].partition("\n\nEach large")[0]
    lines = [line for line in section.splitlines() if re.match(r"\d+\. ", line)]
    listed = [tuple(re.findall(r"`(\w+)`", line)) for line in lines]
    assert [sorted(line) for line in listed] == [sorted(floor) for floor in FLOORS]
    text = (root / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", text.partition("## Packages")[2], re.MULTILINE)
    assert set(rows) == FLOOR.keys() - {"__init__", "__main__"}
    assert [FLOOR[row] for row in rows] == sorted(FLOOR[row] for row in rows)


def _behind(path: str, doors: set[str]) -> bool:
    return any(path.startswith(door) if door.endswith("/") else path == door for door in doors)
