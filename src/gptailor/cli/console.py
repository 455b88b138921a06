"""What the verbs share: the screen, and how a run, its config and its journal are found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from gptailor.config import Config
from gptailor.errors import RecordError

__all__ = ["config_of", "errors", "header_of", "screen"]

screen = Console(highlight=False, markup=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def header_of(run: Path) -> Mapping[str, Any]:
    """The first line of a run's record.

    Raises:
        RecordError: The folder is not a run's.
    """
    from gptailor.study.journal import RECORD, read_record

    entries = read_record(run / RECORD)
    if not entries or entries[0].get("kind") != "header":
        raise RecordError(f"{run / RECORD}: has no header; name the folder of a run")
    return entries[0]


def config_of(run: Path) -> Config:
    """The config that a run was begun with, every default filled in."""
    try:
        return Config.model_validate_json(json.dumps(header_of(run)["config"]))
    except (ValidationError, KeyError):
        raise RecordError(
            f"{run}: its config is not one of this version; use the version that searched"
        ) from None
