"""Text of a model card: names and paths as Markdown shows them unchanged, tables, lists."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["bullets", "clean", "escaped", "shown_path", "table"]

_ENTITIES = {ord(char): f"&#{ord(char)};" for char in "&<>|\\`*[]~$"}
_EDGE_UNDERSCORE = re.compile(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")  # within a word it is text


def shown_path(path: str) -> str:
    """A path with its remark; of an absolute one the last part, as cards are published."""
    parts = path.split(" (adapter on ")
    shown = [Path(part).name if Path(part).is_absolute() else part for part in parts]
    return " (adapter on ".join(shown)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def bullets(lines: Iterable[str]) -> str:
    """A list below a paragraph or table; nothing without lines."""
    text = "".join(f"\n- {line}" for line in lines)
    return f"\n{text}" if text else ""


def clean(text: str) -> str:
    """One line without control characters, for any text."""
    kinds = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    plain = (" " if unicodedata.category(char) in kinds else char for char in text)
    return " ".join("".join(plain).split())


def escaped(text: str) -> str:
    """Text that Markdown shows unchanged, in a table too."""
    return _EDGE_UNDERSCORE.sub("&#95;", clean(text).translate(_ENTITIES))
