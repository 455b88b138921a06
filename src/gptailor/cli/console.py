"""What the verbs share: the screen, and how a run, its config and its journal are found."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from rich.console import Console

from gptailor.config import Config
from gptailor.errors import ConfigError, RecordError
from gptailor.faults import usable_path

__all__ = ["config_of", "errors", "header_of", "named", "run_folder", "screen"]

screen = Console(highlight=False, markup=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def named(path: Path | None) -> Path | None:
    """Refuse a path that can be no file's; whether a file is there is seen when it is read.

    Raises:
        ConfigError: It is too long, leads round in a circle, or is otherwise none.
    """
    if path is None:
        return None
    try:
        usable_path(str(path))
        _refuse_nowhere(path)
        path.stat()
    except ValueError as fault:
        raise ConfigError(f"the path {fault}") from None
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as fault:
        raise ConfigError(f"{path}: can't be used: {fault.strerror}") from None
    return path


def _refuse_nowhere(path: Path) -> None:
    try:
        path.absolute()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: the current folder is gone; go to one that is there, or give the whole path"
        ) from None


def run_folder(config: Path) -> Path:
    """Where a config's study is recorded when nobody says: ``runs/NAME`` beside the config."""
    return config.resolve().parent / "runs" / config.stem


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
