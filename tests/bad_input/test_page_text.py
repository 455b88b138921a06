"""Whatever text a record holds, the page shows it as text, and nothing more."""

from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from records import SOUND, bytes_of

EVIL = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}</style></textarea>"


class Page(HTMLParser):
    """What a browser would make of a page: its tags and attributes, and the text it shows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.shown = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.shown += data


def strings_of(item: Any) -> set[str]:
    """Every text in a record, keys included."""
    if isinstance(item, str):
        return {item}
    if isinstance(item, dict):
        return {text for key, value in item.items() for text in strings_of(value) | {key}}
    return {text for one in item for text in strings_of(one)} if isinstance(item, list) else set()


def renamed(item: Any, old: str, new: str) -> Any:
    if isinstance(item, dict):
        return {(new if key == old else key): renamed(one, old, new) for key, one in item.items()}
    if isinstance(item, list):
        return [renamed(one, old, new) for one in item]
    return new if item == old else item


RICH: list[dict[str, Any]] = [
    SOUND[0]
    | {
        "config": {
            "family": {
                "base": {"path": "a base"},
                "variants": {"math": {"path": "a variant"}},
                "dtype": "float32",
            },
            "search": {"name": "a searcher", "options": {"an option": "its value"}},
            "engine": {},
            "budget": {"n_examples": None},
        },
        "machine": {"cpu": "a cpu"},
    },
    *SOUND[1:4],
    SOUND[4] | {"failure": "a reason"},
    *SOUND[5:],
]
FREE = {"quiz", "a base", "a variant", "a searcher", "an option", "its value", "a cpu", "a reason"}
FREE |= {"torch", "2.9.0", "random", "best", "b", "q", "2026-01-01T00:00:00+0000"}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("old", sorted(strings_of(RICH)))
def test_any_text_of_a_record_is_shown_as_text_or_refused(
    old: str, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    record = run / "record.jsonl"
    record.write_bytes(bytes_of(RICH))
    assert run_command("report", run, "-o", tmp_path / "sound.html")[0] == 0
    sound = Page((tmp_path / "sound.html").read_text(encoding="utf-8"))
    record.write_bytes(bytes_of(renamed(RICH, old, EVIL)))
    code, _, err = run_command("report", run, "-o", tmp_path / "evil.html")
    if code == 2:
        assert old not in FREE, err
        assert not (tmp_path / "evil.html").exists()
        return
    page = Page((tmp_path / "evil.html").read_text(encoding="utf-8"))
    assert page.tags["script"] == sound.tags["script"]
    assert page.tags.keys() <= sound.tags.keys()
    assert page.attributes <= sound.attributes
    assert "49" not in page.shown or "49" in sound.shown
    if old in {"quiz", "a reason", "a base", "an option"}:
        assert "<script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}" in page.shown


def test_the_name_of_a_run_is_shown_as_text(
    tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    run = tmp_path / "<img src=x onerror=alert(1)>"
    run.mkdir()
    (run / "record.jsonl").write_bytes(bytes_of(RICH))
    assert run_command("report", run)[0] == 0
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert "img" not in page.tags
    assert "onerror" not in page.attributes
    assert "<img src=x onerror=alert(1)>" in page.shown
