"""Source: one layer of one member, written ``math:17``."""

import functools
import re
from dataclasses import dataclass

from gptailor.errors import TailoringError

__all__ = ["BASE", "Source"]

BASE = "base"

_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """One layer of one member; or, with no layer, a member's embedding, norm or head.

    Args:
        member: The member's name in the family; the base is always ``base``.
        layer: The layer's index in that member, from 0.

    Raises:
        TailoringError: The name or the index is invalid.
    """

    member: str
    layer: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.member, str) or not _MEMBER.match(self.member):
            raise TailoringError(
                f"{self.member!r} is not a member's name; use letters, digits, '.', '_' and '-'"
            )
        whole = isinstance(self.layer, int) and not isinstance(self.layer, bool)
        if self.layer is not None and (not whole or self.layer < 0):
            raise TailoringError(f"the layer of {self.member!r} is {self.layer!r}; give 0 or more")

    @classmethod
    def parse(cls, text: object) -> "Source":
        """Read ``math:17``, or ``math`` for an outer part.

        Raises:
            TailoringError: The text is neither.
        """
        if not isinstance(text, str):
            raise TailoringError(f"{text!r} is not a source; write one as 'member:layer'")
        return _parse(text)

    def __str__(self) -> str:
        return self.member if self.layer is None else f"{self.member}:{self.layer}"


@functools.lru_cache(2**14)  # a record names the same layers thousands of times
def _parse(text: str) -> Source:
    member, colon, layer = text.partition(":")
    if not colon:
        return Source(member)
    if not re.fullmatch(r"[0-9]{1,6}", layer):
        raise TailoringError(f"{text!r} is not a source; write one as 'member:layer'")
    return Source(member, int(layer))
