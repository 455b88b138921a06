"""One opened member, before it is compared with the base."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gptailor.family.multimodal import MultimodalWrapper

__all__ = ["OpenedMember"]


@dataclass(frozen=True, eq=False)
class OpenedMember:
    """One member's weights, config and tokenizer."""

    location: str  # its folder or file on this machine, for messages
    path: str  # as in the config, with a remark where it is an adapter
    config: Any  # transformers is untyped here
    state: Mapping[str, Tensor]  # a tied head is absent
    tied: bool  # whether the head is the embedding
    tokenizer: Any = None
    generation_config: Any = None
    licence: str | None = None  # as in its model card or package
    notes: tuple[str, ...] = ()
    stored: str | None = None  # how, if not as plain floats: a sentence without its subject
    multimodal_wrapper: MultimodalWrapper | None = None
