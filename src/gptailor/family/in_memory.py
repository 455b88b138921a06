"""A family of transformers models that are already in memory, without files."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from gptailor.core.tailoring import BASE
from gptailor.errors import FamilyError
from gptailor.family.architecture import multimodal_types, refuse_unsupported
from gptailor.family.checkpoint import state_of
from gptailor.family.family import Family, OpenedMember
from gptailor.family.layout import Layout
from gptailor.family.loading import join_members

__all__ = ["MEMORY", "family_of"]

MEMORY = "memory://"  # the path of a member that is in no file begins with this


def family_of(
    base: PreTrainedModel, variants: Mapping[str, PreTrainedModel], tokenizer: Any
) -> Family:
    """Make a family of models in memory, without copies where dtype and device are the base's.

    Do not train the models while the family is in use.

    Args:
        base: A causal language model; its dtype and device become the family's.
        variants: Name to a fine-tuned model of the same architecture. There may be none.
        tokenizer: The transformers tokenizer of all members.

    Raises:
        FamilyError: Every problem of every member, a sentence each.
    """
    opened = _opened(BASE, base, tokenizer)
    openers = {name: partial(_opened, name, model, tokenizer) for name, model in variants.items()}
    return join_members(opened, openers, dtype=base.dtype, device=base.device)


def _opened(name: str, model: PreTrainedModel, tokenizer: Any) -> OpenedMember:
    """A model as if it had been read from a file."""
    where = f"the model in memory {name!r}"
    if not isinstance(model, PreTrainedModel):
        raise FamilyError(
            f"{where} is a {type(model).__name__}; give a transformers model, and a PEFT model "
            "after merge_and_unload"
        )
    if model.config.model_type in multimodal_types():
        raise FamilyError(f"{where} reads images and text; save it and give its folder")
    refuse_unsupported(model.config)
    layout = Layout.of(model)
    return OpenedMember(
        location=where,
        path=f"{MEMORY}{name}",
        config=model.config,
        state=state_of(model, layout, model.dtype),
        tied=layout.tied,
        tokenizer=tokenizer,
        generation_config=model.generation_config,
    )
