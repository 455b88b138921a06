"""A family of transformers models that are already in memory, without files."""

import copy
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from gptailor.core.tailoring import BASE, Source
from gptailor.errors import FamilyError, UserError
from gptailor.family.architecture import MULTIMODAL, refuse_unsupported
from gptailor.family.checkpoint import state_of
from gptailor.family.consistency import fitted, value_problems
from gptailor.family.family import Family
from gptailor.family.layout import Layout
from gptailor.family.members import OpenedMember

__all__ = ["MEMORY", "family_of"]

MEMORY = "memory://"  # the path of a member that has no file begins with this


def family_of(
    base: PreTrainedModel, variants: Mapping[str, PreTrainedModel], tokenizer: Any
) -> Family:
    """Make a family of models in memory; every tensor that already fits is used without a copy.

    Do not train the models while the family is in use.

    Args:
        base: A causal language model; its dtype and device become the family's.
        variants: Name to a fine-tuned model of the same architecture. There may be none.
        tokenizer: The transformers tokenizer of all members.

    Raises:
        FamilyError: Every problem of every member, a sentence each.
    """
    opened = _opened(BASE, base, tokenizer)
    layout, dtype = Layout.of(base), base.dtype
    states = {BASE: state_of(base, layout, dtype)}
    problems = value_problems(BASE, opened.location, states[BASE])
    notes: list[str] = []
    for name, model in variants.items():
        try:
            if Source(name).member == BASE:
                raise FamilyError(f"a variant is named {BASE!r}; that is the base's own name")
            member = _opened(name, model, tokenizer)
        except UserError as error:
            problems += error.problems
            continue
        state, misfits, own_notes = fitted(name, member, opened, layout)
        problems += misfits or value_problems(name, member.location, state)
        notes += own_notes
        device = states[BASE][layout.embedding].device
        states[name] = {key: tensor.to(device, dtype) for key, tensor in state.items()}
    if problems:
        raise FamilyError(problems)
    config = copy.deepcopy(base.config)
    config.dtype, config.tie_word_embeddings = dtype, layout.tied
    return Family(
        config=config,
        layout=layout,
        dtype=dtype,
        states=states,
        paths={name: f"{MEMORY}{name}" for name in states},
        notes=tuple(notes),
        generation_config=base.generation_config,
        base_tokenizer=tokenizer,
    )


def _opened(name: str, model: PreTrainedModel, tokenizer: Any) -> OpenedMember:
    """A model as if it had been read from a file."""
    location = f"the model in memory {name!r}"
    if not isinstance(model, PreTrainedModel):
        raise FamilyError(
            f"{location} is a {type(model).__name__}; give a transformers model, and a PEFT model "
            "after merge_and_unload"
        )
    if model.config.model_type in MULTIMODAL:
        raise FamilyError(f"{location} reads images and text; save it and give its folder")
    refuse_unsupported(model.config)
    layout = Layout.of(model)
    return OpenedMember(
        location=location,
        path=f"{MEMORY}{name}",
        config=model.config,
        state=state_of(model, layout, model.dtype),
        tied=layout.tied,
        tokenizer=tokenizer,
        generation_config=model.generation_config,
    )
