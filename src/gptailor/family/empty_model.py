"""Make models without weights, and models around tensors that are already in memory."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import cpu_offload, init_empty_weights
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.initialization import no_init_weights

from gptailor.family.architecture import facts
from gptailor.family.library_calls import quiet

__all__ = ["auto_class", "model_around", "offloaded", "skeleton_of"]


def auto_class(config: PreTrainedConfig) -> Any:  # transformers is untyped here
    """The transformers class that reads and makes models of this config."""
    multimodal = config.model_type in facts().multimodal
    return AutoModelForImageTextToText if multimodal else AutoModelForCausalLM


def skeleton_of(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Build a model in eval mode: parameters on meta, non-persistent buffers real."""
    config = copy.deepcopy(config)
    config._attn_implementation = None  # the architecture's best, whatever it was read with
    # buffers must be real: rotary frequencies can't be loaded from anywhere
    with quiet(), init_empty_weights(include_buffers=False), no_init_weights():
        model: PreTrainedModel = auto_class(config).from_config(
            config, dtype=dtype, trust_remote_code=False
        )
    model.tie_weights()  # `init_empty_weights` gave a tied head a parameter of its own
    return model.eval()


def model_around(
    config: PreTrainedConfig, state: Mapping[str, Tensor], dtype: torch.dtype
) -> PreTrainedModel:
    """Build a model whose parameters are the given tensors; nothing is copied."""
    model = skeleton_of(config, dtype)
    model.load_state_dict(dict(state), strict=False, assign=True)
    model.tie_weights()
    return model.eval()


def offloaded(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Let a model compute on a device that need not hold it: weights come a module at a time."""
    made: PreTrainedModel = cpu_offload(model, execution_device=device)
    return made
