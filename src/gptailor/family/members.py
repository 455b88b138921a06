"""One opened member, before it is compared with the base."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gptailor.family.multimodal import MultimodalWrapper

__all__ = ["OpenedMember"]


@dataclass(frozen=True, eq=False)
class OpenedMember:
    """One member's weights in memory.

    Args:
        location: Its folder or file on this machine, for messages.
        path: Its path as in the config, with a remark where it is an adapter.
        config: The transformers config.
        state: Names and tensors of the model in memory; a tied head is absent.
        tied: Whether the head is the embedding.
        tokenizer: A transformers tokenizer, or None.
        generation_config: A transformers GenerationConfig, or None.
        licence: As in its model card or package, or None.
        notes: Sentences for the user.
        stored: How its weights were stored, if not as plain floats: the rest of a sentence that
            begins with `path`.
        multimodal_wrapper: The rest of a multimodal checkpoint, or None.
    """

    location: str
    path: str
    config: Any  # transformers is untyped here
    state: Mapping[str, Tensor]
    tied: bool
    tokenizer: Any = None
    generation_config: Any = None
    licence: str | None = None
    notes: tuple[str, ...] = ()
    stored: str | None = None
    multimodal_wrapper: MultimodalWrapper | None = None
