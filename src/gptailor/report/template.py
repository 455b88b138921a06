"""Fill in a template of this package: one file that fetches nothing; any page is written so."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gptailor.errors import RecordError
from gptailor.files.atomic import write_atomically
from gptailor.report.words import amount, count, decimal, duration, interval, listed, percent

__all__ = ["write_page"]

_GENERATOR = b'<meta name="generator" content="GPTailor">'  # as the templates write it
_FILTERS = (amount, count, decimal, duration, interval, listed, percent)


def write_page(path: Path, template: str, facts: Callable[[], Mapping[str, Any]]) -> None:
    """Fill a template of this package in, and replace no file but a page of ours.

    Raises:
        RecordError: The file is not ours.
    """
    if path.is_dir():
        raise RecordError(f"{path}: is a folder; name the HTML file to write")
    if path.exists() and not path.is_file():
        raise RecordError(f"{path}: is no plain file; name the HTML file to write")
    if path.exists() and _GENERATOR not in path.read_bytes()[:4096]:
        raise RecordError(f"{path}: exists and is no report of ours; name another file")
    compiled, look = _template(template)
    write_atomically(path, compiled.render(**facts(), **look))


@cache
def _template(name: str) -> tuple[jinja2.Template, dict[str, Markup]]:
    """A template, compiled once, and the style and script: files of this package."""
    loader = jinja2.PackageLoader("gptailor.report")
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({form.__name__: form for form in _FILTERS})
    files = {"style": "page.css", "script": "page.js"}
    look = {key: Markup(loader.get_source(environment, name)[0]) for key, name in files.items()}
    digest = base64.b64encode(hashlib.sha256(look["script"].encode()).digest()).decode()
    look["script_digest"] = Markup(digest)
    return environment.get_template(name), look
