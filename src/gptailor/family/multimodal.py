"""Multimodal checkpoints: the language model inside, and the rest as a `MultimodalWrapper`.

The language model is opened, searched and cut as any other. The rest (vision tower, projector,
processor files) is kept unchanged and put around the smaller language model again.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gptailor.errors import FamilyError
from gptailor.family.architecture import facts, text_config
from gptailor.family.empty_model import model_around, skeleton_of
from gptailor.files.safe_read import read_plain

__all__ = ["MultimodalWrapper", "language_model", "multimodal_wrapper_of", "names_whole"]

# prefixes of the language model's names in the whole model, and in the language model alone
_PREFIXES = (
    ("model.language_model.", "model."),
    ("model.text_model.", "model."),
    ("language_model.", ""),
)
_FILES = (
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    "chat_template.json",
)
_MAX_BYTES = 2**24  # of one of those files
# of the largest logit
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


@dataclass(frozen=True, eq=False)
class MultimodalWrapper:
    """A checkpoint without its language model."""

    config: Any  # the whole checkpoint's; transformers is untyped here
    state: Mapping[str, Tensor]  # by the names in the whole model
    files: Mapping[str, bytes]  # of the processor

    @property
    def parameters(self) -> int:
        """Parameters outside the language model."""
        return sum(tensor.numel() for tensor in self.state.values())

    def around(self, model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
        """Wrap a language model of any number of layers; tensors are shared, or cast to `dtype`."""
        config, text = copy.deepcopy(self.config), copy.deepcopy(model.config)
        inside = config.get_text_config()
        setattr(config, next(k for k in config.sub_configs if getattr(config, k) is inside), text)
        config.tie_word_embeddings = text.tie_word_embeddings
        config.dtype = dtype
        whole = skeleton_of(config, dtype)
        names = _names(whole, model)
        state = {names[name]: tensor for name, tensor in model.state_dict().items()}
        state |= {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in self.state.items()
        }
        whole.load_state_dict(state, strict=False, assign=True)
        whole.tie_weights()
        return whole.eval()

    def write_files(self, folder: Path) -> None:
        """Write the processor's files into a folder, where it has none of that name."""
        for name, content in self.files.items():
            if not (folder / name).exists():
                (folder / name).write_bytes(content)


def language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The language model of a multimodal one, with shared tensors; any other model is returned."""
    if model.config.model_type not in facts().multimodal:
        return model
    config = copy.deepcopy(text_config(model.config))
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    config.tie_word_embeddings = head.weight is embedding.weight
    inside = skeleton_of(config, model.dtype)
    names, state = _names(model, inside), model.state_dict()
    taken = {name: state[names[name]] for name in inside.state_dict()}
    made = model_around(config, taken, model.dtype)
    made.generation_config = model.generation_config
    return made


def multimodal_wrapper_of(
    model: PreTrainedModel, inside: PreTrainedModel, folder: Path
) -> MultimodalWrapper | None:
    """The wrapper of `model`, read from `folder`, around its language model `inside`, or None."""
    if model is inside:
        return None
    _refuse_other_logits(model, inside, folder)
    taken = set(_names(model, inside).values())
    return MultimodalWrapper(
        config=copy.deepcopy(model.config),
        state={
            name: tensor.detach()
            for name, tensor in model.state_dict().items()
            if name not in taken
        },
        files={
            name: read_plain(folder / name, most=_MAX_BYTES, noun=name, error_type=FamilyError)
            for name in _FILES
            if (folder / name).is_file()
        },
    )


def names_whole(name: str) -> bool:
    """Whether a tensor's name is that of a language model inside a multimodal one."""
    return name.startswith(tuple(outer for outer, _ in _PREFIXES))


def _refuse_other_logits(model: PreTrainedModel, inside: PreTrainedModel, folder: Path) -> None:
    """Compare the logits of the two: some models scale or cap them in one only."""
    tokens = torch.arange(3, 8)[None]
    with torch.inference_mode():
        whole = model.eval()(input_ids=tokens, use_cache=False).logits.float()
        alone = inside.eval()(input_ids=tokens, use_cache=False).logits.float()
    apart = float((whole - alone).abs().max())
    if not apart <= _TOLERANCE.get(model.dtype, 0.05) * max(1.0, float(whole.abs().max())):
        raise FamilyError(
            f"{folder}: given text alone, this {model.config.model_type} model differs by "
            f"{apart:.2g} in its logits from its {inside.config.model_type} language model by "
            "itself, so the language model can't be tailored alone"
        )


def _names(model: PreTrainedModel, inside: PreTrainedModel) -> dict[str, str]:
    """Names in the language model to names in the whole model."""
    held = model.state_dict().keys()
    for outer, inner in _PREFIXES:
        names = {
            name: outer + name[len(inner) :] if name.startswith(inner) else name
            for name in inside.state_dict()
        }
        if held >= set(names.values()):
            return names
    raise FamilyError(
        f"models of type {model.config.model_type!r} are not supported: "
        "their language model was not found inside"
    )
