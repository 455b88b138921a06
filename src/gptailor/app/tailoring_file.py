"""Read a tailoring from a file, or a recipe for mergekit; check the weights beside it."""

from collections.abc import Callable, Iterable
from pathlib import Path

from gptailor.config import Config
from gptailor.convert.mergekit_recipe import tailoring_of_recipe
from gptailor.core.tailoring import BASE, Tailoring, is_recipe
from gptailor.errors import TailoringError
from gptailor.files.yaml import read_yaml

__all__ = ["load_tailoring", "refuse_unreadable"]


def load_tailoring(path: Path, config: Config, n_layers: Callable[[], int]) -> Tailoring:
    """Read a ``tailoring.yaml``, or a mergekit recipe whose models are the members of a config.

    `n_layers` returns how many layers each member has; it is called where a recipe asks.

    Raises:
        TailoringError: It can't be read, or is a recipe that no tailoring can say.
    """
    plain = read_yaml(path, error_type=TailoringError)
    if not is_recipe(plain):
        return Tailoring.from_plain(plain, where=str(path))
    members: dict[str, str] = {}
    for name, spec in {BASE: config.family.base, **config.family.variants}.items():
        members |= {name: name, spec.path: name}
        # as it is written in the recipe, whose paths count from its own folder
        for folder in (path.parent, Path()):
            if (there := Path(spec.path).expanduser()).exists():
                members |= {one: name for one in _ways_to(there, folder)}
    return tailoring_of_recipe(plain, members, str(path), n_layers)


def refuse_unreadable(tailoring: Tailoring, folders: Iterable[Path]) -> None:
    """Refuse a tailoring whose fitted weights are not beside it, in one of the folders, or damaged.

    Raises:
        TailoringError: Names the files.
    """
    if all(spec.fitted is None for spec in tailoring.layers):
        return
    from gptailor.family.fitted import FOLDER, FittedWeights  # slow

    store = FittedWeights()
    for folder in folders:
        store.look_in(folder / FOLDER)
    store.refuse_unreadable(tailoring)


def _ways_to(there: Path, folder: Path) -> list[str]:
    """The absolute path of a member, and the short ones from a folder."""
    target = there.resolve()
    ways = [str(target), str(there.absolute())]
    if target.is_relative_to(folder.resolve()):
        inner = target.relative_to(folder.resolve()).as_posix()
        ways += [inner, f"./{inner}", f"{inner}/", f"./{inner}/"]
    return ways
