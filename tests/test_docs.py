"""What the docs and the README show is true: links, keys, snippets."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from gptailor.config import Config, load_config, schema
from gptailor.core.metrics import METRICS
from gptailor.core.plugins import BASELINES, MERGE_METHODS, SEARCHERS, WORKERS
from gptailor.core.tailoring import Tailoring
from gptailor.core.validation import Frozen

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
SECTIONS = [
    item
    for item in vars(schema).values()
    if isinstance(item, type) and issubclass(item, Frozen) and item is not Frozen
]


def told(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", PAGES, ids=told)
def test_every_link_to_a_file_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", text)
    targets = [link or source for link, source in targets]
    local = [target.partition("#")[0] for target in targets if "://" not in target]
    missing = [target for target in local if target and not (path.parent / target).exists()]
    assert not missing


def test_every_page_is_in_the_navigation() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in ROOT.glob("docs/**/*.md"):
        assert path.relative_to(ROOT / "docs").as_posix() in nav


@pytest.mark.parametrize("folder", ["concepts", "how-to", "reference"])
def test_the_first_page_links_to_every_page(folder: str) -> None:
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    pages = [
        path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob(f"docs/{folder}/*.md")
    ]
    assert pages
    assert [page for page in pages if f"]({page})" not in index] == []


def test_every_decision_is_listed_or_said_to_be_unused() -> None:
    index = (ROOT / "docs/decisions/index.md").read_text(encoding="utf-8")
    for path in ROOT.glob("docs/decisions/[0-9]*.md"):
        assert f"[{path.name[:4]}]({path.name})" in index


def test_the_picture_of_the_report_is_small() -> None:
    picture = (ROOT / "docs/images/report.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) <= 60_000


@pytest.mark.parametrize("path", PAGES, ids=told)
def test_every_python_snippet_is_python_and_names_what_exists(path: Path) -> None:
    for source in blocks(path, "python"):
        if source.lstrip().startswith(('"', "MergeSpec", "@merge_method")):
            continue  # lines of a file, shown out of their place
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gptailor"):
                module = __import__(str(node.module), fromlist=["_"])
                assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("path", PAGES, ids=told)
def test_every_whole_config_and_tailoring_shown_is_sound(path: Path, tmp_path: Path) -> None:
    for text in blocks(path, "yaml"):
        plain: Any = yaml.safe_load(text)
        if isinstance(plain, dict) and {"family", "remove", "tasks"} <= plain.keys():
            (tmp_path / "tailor.yaml").write_text(text, encoding="utf-8")
            load_config(tmp_path / "tailor.yaml")
        if isinstance(plain, dict) and "format" in plain:
            Tailoring.from_yaml(text)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_the_config_page_has_every_key_with_its_meaning(section: type[Frozen]) -> None:
    page = (ROOT / "docs/reference/config.md").read_text(encoding="utf-8")
    for name, field in section.model_fields.items():
        assert f"| `{name}` |" in page
        assert (field.description or "") in page


def test_the_pages_have_every_method_metric_searcher_and_pool() -> None:
    shown = {
        "merge-methods": MERGE_METHODS.builtin,
        "task": METRICS.builtin,
        "searcher": SEARCHERS.builtin,
        "workers": WORKERS.builtin,
    }
    for page, names in shown.items():
        text = (ROOT / f"docs/concepts/{page}.md").read_text(encoding="utf-8")
        assert all(f"| `{name}` |" in text for name in names)


def test_the_page_of_the_baselines_has_every_one_of_them() -> None:
    text = (ROOT / "docs/how-to/baselines.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in text for name in BASELINES.builtin)


def test_the_page_of_the_default_search_has_every_option_with_its_default() -> None:
    page = (ROOT / "docs/concepts/evolution.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w./]+)`? \|", page, re.MULTILINE))
    assert {name: rows.get(name) for name in SEARCHERS.defaults("evolution")} == {
        name: "1/3" if default == 1 / 3 else str(default)
        for name, default in SEARCHERS.defaults("evolution").items()
    }


def test_the_paper_scale_config_of_the_readme_is_the_one_in_configs(tmp_path: Path) -> None:
    (text,) = [text for text in blocks(ROOT / "README.md", "yaml") if "remove:" in text]
    (tmp_path / "tailor.yaml").write_text(text, encoding="utf-8")
    shown, kept = (
        load_config(tmp_path / "tailor.yaml"),
        load_config(ROOT / "configs/llama2_7b.yaml"),
    )

    def without_paths(config: Config) -> dict[str, Any]:
        plain = config.model_dump(exclude={"family": {"variants"}, "engine": {"cache_bytes"}})
        return plain | {"variants": list(config.family.variants)}

    assert without_paths(shown) == without_paths(kept)


def test_every_promise_names_tests_that_are_there() -> None:
    text = (ROOT / "docs/concepts/trust.md").read_text(encoding="utf-8")
    promises = text.split("\n## ")[1:]
    assert len(promises) >= 8
    for promise in promises:
        tested_by = promise.partition("Tested by ")[2]
        named = re.findall(r"`((?:tests|benchmarks)/[^`]*)`", tested_by)
        assert named, promise.splitlines()[0]
        assert all((ROOT / path).exists() for path in named)


@pytest.mark.parametrize(("name", "most"), [("README.md", 180), ("CONTRIBUTING.md", 80)])
def test_the_first_pages_are_short(name: str, most: int) -> None:
    assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= most


@pytest.mark.parametrize("path", PAGES, ids=told)
def test_no_page_names_a_folder_of_somebodys_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"(?<![\w./])/(home|Users|root|work|tmp)/", text)
