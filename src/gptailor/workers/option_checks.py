"""What the options of worker pools may be, held against before anything is loaded or joined.

Knows nothing of how the pools run.
"""

import re
from collections.abc import Mapping

from gptailor.errors import ConfigError

__all__ = [
    "address_problems",
    "count_problems",
    "local_problems",
    "ray_problems",
    "refuse_bad_counts",
]

FINEST_SHARE = 1e-4  # Ray counts devices in ten thousandths
ADDRESS = "workers.options.address"


def local_problems(options: Mapping[str, object]) -> list[str]:
    """The problems of the options of ``local``, a sentence each."""
    return count_problems(**_counts(options))


def ray_problems(options: Mapping[str, object]) -> list[str]:
    """The problems of the options of ``ray``, a sentence each."""
    problems = count_problems(**_counts(options))
    problems += _share_problems(options.get("devices_per_worker", 1))
    return problems + address_problems(options.get("address", "auto"))


def _counts(options: Mapping[str, object]) -> dict[str, object]:
    counts = {"group_size": options.get("group_size", 16)}
    n_workers = options.get("n_workers")
    return counts if n_workers is None else counts | {"n_workers": n_workers}


def count_problems(**options: object) -> list[str]:
    """A sentence for each option of a pool that is to be a whole number of 1 or more, and is not.

    Example:
        >>> count_problems(group_size=16, n_workers=0)
        ['workers.options.n_workers: must be a whole number of 1 or more, not 0']
    """
    return [
        f"workers.options.{name}: must be a whole number of 1 or more, not {value!r}"
        for name, value in options.items()
        if isinstance(value, bool) or not isinstance(value, int) or value < 1
    ]


def refuse_bad_counts(**options: object) -> None:
    """Refuse options of a pool that are to be counts and are none.

    Raises:
        ConfigError: Every error.
    """
    if problems := count_problems(**options):
        raise ConfigError(problems)


def address_problems(address: object, where: str = ADDRESS) -> list[str]:
    """The error of what is neither ``auto``, ``local`` nor ``host:port``.

    Args:
        address: What should be one.
        where: The key or variable that says it.

    Example:
        >>> address_problems("head:6379"), address_problems("[::1]:6379"), address_problems("local")
        ([], [], [])
    """
    if isinstance(address, str) and _is_address(address):
        return []
    return [f"{where}: must be auto, local, or the host:port of a cluster's head, not {address!r}"]


def _is_address(text: str) -> bool:
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", host):
        return text in ("auto", "local")
    return port.isdecimal() and 0 < int(port) < 2**16


def _share_problems(value: object) -> list[str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and (value == 0 or FINEST_SHARE <= value <= 1):  # type: ignore[operator]  # a number here
        return []
    return [
        "workers.options.devices_per_worker: must be 1, a fraction of 1 to share a GPU, or 0 for "
        f"none, not {value!r}: a worker runs its candidates on one device"
    ]
