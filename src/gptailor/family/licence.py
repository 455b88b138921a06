"""Find the licence of a base, for the card of the models made from it."""

import importlib.metadata
from pathlib import Path

from gptailor.errors import ConfigError
from gptailor.files.yaml import parse_yaml

__all__ = ["licence_of", "package_licence"]

_MAX_CARD_BYTES = 2**20


def licence_of(folder: Path) -> str | None:
    """The ``license`` in the front matter of a folder's README.md, or None."""
    path = folder / "README.md"
    if not path.is_file() or path.stat().st_size > _MAX_CARD_BYTES:
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return None
    try:
        matter = parse_yaml("\n".join(lines[1 : lines.index("---", 1)]), where=str(path))
    except ConfigError:
        return None  # a broken card is no reason to refuse the weights
    named = matter.get("license") if isinstance(matter, dict) else None
    return named if isinstance(named, str) and named else None


def package_licence(package: str) -> str | None:
    """The licence in the metadata of an installed package, in lower case, or None."""
    for distribution in importlib.metadata.packages_distributions().get(package, []):
        metadata = importlib.metadata.metadata(distribution)
        for key in ("License-Expression", "License"):
            values = metadata.get_all(key) or []
            if values and len(values[0]) < 60:  # some put the whole text there
                return str(values[0]).lower()
    return None
