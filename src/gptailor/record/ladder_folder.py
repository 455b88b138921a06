"""The folder of a depth ladder: an ordinary run for each number of layers to cut."""

import re
from pathlib import Path

from gptailor.errors import ConfigError, RecordError
from gptailor.record.journal import RECORD

__all__ = ["depth_folder", "earlier_runs", "ladder_of", "refuse_other_form", "run_at"]

_DEPTH = re.compile(r"remove-([1-9][0-9]{0,4})", re.ASCII)


def depth_folder(folder: Path, depth: int) -> Path:
    """The run in a ladder's folder that cuts so many layers."""
    return folder / f"remove-{depth}"


def ladder_of(folder: Path) -> dict[int, Path]:
    """Layers cut to the folder of the run, rising; empty where the folder is no ladder's."""
    if not folder.is_dir() or (folder / RECORD).exists():
        return {}
    found = ((_DEPTH.fullmatch(path.name), path) for path in folder.iterdir())
    runs = {int(match[1]): path for match, path in found if match and (path / RECORD).exists()}
    return dict(sorted(runs.items()))


def earlier_runs(folder: Path) -> list[Path]:
    """The runs of the same ladder that cut fewer layers, rising; none where it is in no ladder."""
    folder = folder.resolve()
    match, runs = _DEPTH.fullmatch(folder.name), ladder_of(folder.parent)
    return [] if match is None else [run for depth, run in runs.items() if depth < int(match[1])]


def run_at(folder: Path, depth: int | None) -> Path:
    """The folder of one run: the given one, or that of a depth of a ladder.

    Raises:
        ConfigError: The folder is a ladder's and no depth of it is given, or the other way round.
    """
    runs = ladder_of(folder)
    known = ", ".join(map(str, runs))
    if not runs and depth is not None:
        raise ConfigError(f"--remove: {folder} is no depth ladder; leave --remove out")
    if runs and depth is None:
        raise ConfigError(
            f"{folder}: is a depth ladder with {known} layers cut; name one of them with --remove"
        )
    if depth is None:
        return folder
    if depth not in runs:
        raise ConfigError(f"--remove: {folder} has no run with {depth} layers cut, but {known}")
    return runs[depth]


def refuse_other_form(folder: Path, *, is_ladder: bool) -> None:
    """Refuse a ladder in the folder of a single run, a run in a ladder's, and both in a model's.

    Raises:
        RecordError: It is one.
    """
    if (folder / "config.json").exists():
        raise RecordError(f"{folder}: is the folder of a model; name another one with --out")
    if is_ladder and (folder / RECORD).exists():
        raise RecordError(f"{folder}: holds a single run; name another folder for the depth ladder")
    if not is_ladder and ladder_of(folder):
        raise RecordError(f"{folder}: holds a depth ladder; name another folder for a single run")
