"""What a member is asked for by, and what an opened one is.

Knows nothing of the files that members come from, nor of the other members.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gptailor.family.multimodal import MultimodalWrapper

__all__ = ["OpenedMember"]


@dataclass(frozen=True, eq=False)
class OpenedMember:
    """One member's weights in memory, before they are held against the base's.

    Args:
        where: Its folder or file, for messages.
        origin: Where it came from, for people.
        config: The transformers config.
        state: Names and tensors of the model in memory; a tied head is absent.
        tied: Whether the head is the embedding.
        tokenizer: A transformers tokenizer, or None.
        generation_config: A transformers GenerationConfig, or None.
        licence: What its model card or package says, or None.
        notes: Sentences for the user.
        stored: How its weights were stored, where that is not as plain floats: the rest of a
            sentence that begins with `origin`.
        multimodal_wrapper: What stands around its language model, or None where there is nothing.
    """

    where: str
    origin: str
    config: Any  # transformers is untyped here
    state: Mapping[str, Tensor]
    tied: bool
    tokenizer: Any = None
    generation_config: Any = None
    licence: str | None = None
    notes: tuple[str, ...] = ()
    stored: str | None = None
    multimodal_wrapper: MultimodalWrapper | None = None
