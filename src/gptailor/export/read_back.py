"""Read an exported checkpoint back by stock transformers and compare tensors and logits.

The reference does not use the edited config: each of the tailoring's layers is run with the mask,
positions and rotary embedding that the base's own full-length model gives to the layer at its
original position. So a sliding-window layer that has lost its window is noticed.
"""

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from gptailor.core.tailoring import BASE, Source, Tailoring
from gptailor.errors import ExportError
from gptailor.family import Family, layers_path
from gptailor.family.architecture import max_positions
from gptailor.family.empty_model import auto_class, skeleton_of
from gptailor.family.multimodal import MultimodalWrapper, language_model

__all__ = ["check_checkpoint"]

_N_TOKENS = 64
_WINDOW = 16  # shorter than the text, so that a missing window is noticed
_WINDOW_FIELDS = ("sliding_window", "attention_chunk_size")
_TOLERANCE = 1e-4  # of the largest logit; the same sums in the same order, in float32
_Call = tuple[tuple[Any, ...], dict[str, Any]]


def check_checkpoint(
    folder: Path,
    family: Family,
    tailoring: Tailoring,
    weights: Mapping[str, Tensor],
    narrowed: Mapping[str, Tensor] | None = None,
) -> None:
    """Read a checkpoint back and compare it with the model as it was assembled in memory.

    Both are computed in float32, one layer at a time, whatever their stored dtype. `narrowed` are
    the weights in the checkpoint where idle heads and neurons were left out of it.

    Raises:
        ExportError: A tensor is missing, left over or different, or the logits differ.
    """
    reread = _reread(folder, weights if narrowed is None else narrowed, family.multimodal_wrapper)
    n_tokens = min(_N_TOKENS, max_positions(reread.config) or _N_TOKENS)
    n_rows = reread.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(n_rows, (2, n_tokens), generator=generator)
    found = _logits(_ready(reread), tokens)
    wanted = _tailored_logits(family, tailoring, weights, tokens)
    if not torch.isfinite(wanted).all():
        raise ExportError(
            "the tailored model's logits are not finite on random tokens; "
            "choose another tailoring, or a dtype with a wider range"
        )
    difference = float((found - wanted).abs().max())
    limit = _TOLERANCE * max(1.0, float(wanted.abs().max()))
    if not difference <= limit:
        raise ExportError(
            f"the checkpoint read back by transformers differs from the tailored model by "
            f"{difference:.2g} in its logits, where {limit:.2g} is allowed; "
            f"model type {family.config.model_type!r} can't express this tailoring"
        )


def _reread(
    folder: Path, weights: Mapping[str, Tensor], wrapper: MultimodalWrapper | None
) -> PreTrainedModel:
    """Load the checkpoint as a user would; compare each tensor with the one in memory.

    Returns the language model with the tensors that were read, but with buffers made in float32:
    a model read in bfloat16 rounds Gemma's embedding scale.
    """
    reader = AutoModelForCausalLM if wrapper is None else auto_class(wrapper.config)
    whole, info = reader.from_pretrained(
        folder,
        dtype="auto",
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    stock = language_model(whole)
    state, held = stock.state_dict(), whole.state_dict()
    different = [n for n, t in weights.items() if not _same(t, state.get(n))]
    around = {} if wrapper is None else wrapper.state
    different += [n for n, t in around.items() if n not in held or not _same(held[n], t)]
    for kind, names in {**wrong, "different": different}.items():
        if names:
            raise ExportError(
                f"the checkpoint read back by transformers has {len(names)} tensors that are "
                f"{kind.removesuffix('_keys')}, {names[0]} among them; model type "
                f"{stock.config.model_type!r} can't express this tailoring"
            )
    model = skeleton_of(stock.config, torch.float32)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model


def _same(wanted: Tensor, found: Tensor | None) -> bool:
    # transformers may widen a tensor that it uses in float32, such as a router's bias
    return found is not None and torch.equal(wanted, found.to(wanted.dtype))


def _tailored_logits(
    family: Family, tailoring: Tailoring, weights: Mapping[str, Tensor], tokens: Tensor
) -> Tensor:
    """The logits of the tailoring's layers, run inside the base's own full-length model.

    All of the base's layers run, with their usual arguments; the output of the last one is then
    replaced by the output of the tailoring's layers on the embedded tokens.
    """
    model = skeleton_of(family.config, torch.float32)
    path = layers_path(model)
    layers = _layers(model)
    # without weights, but with each position's window and other settings
    kinds = copy.deepcopy(layers)
    for position, layer in enumerate(layers):
        tensors = family.layer(Source(BASE, position))
        layer.load_state_dict({name: t.cpu() for name, t in tensors.items()}, assign=True)
    parts = {name: t for name, t in weights.items() if not name.startswith(f"{path}.")}
    model.load_state_dict(parts, strict=False, assign=True)
    model.tie_weights()
    calls: list[_Call] = []

    def note(_: nn.Module, args: tuple[Any, ...], arguments: dict[str, Any]) -> None:
        calls.append((args, arguments))

    def by_hand(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        hidden = calls[0][0][0]  # the first layer's input: the embedded tokens, (B, T, H)
        for index, spec in enumerate(tailoring.layers):
            layer = copy.deepcopy(kinds[spec.position])
            prefix = f"{path}.{index}."
            own = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
            layer.load_state_dict(own, assign=True)
            args, arguments = calls[spec.position]
            made = layer.float()(hidden, *args[1:], **arguments)
            hidden = made if isinstance(made, Tensor) else made[0]  # Falcon's layers return a tuple
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    _ready(model)
    for layer in layers:
        layer.register_forward_pre_hook(note, with_kwargs=True)
    layers[-1].register_forward_hook(by_hand)
    return _logits(model, tokens)


def _layers(model: PreTrainedModel) -> nn.ModuleList:
    layers = model.get_submodule(layers_path(model))
    assert isinstance(layers, nn.ModuleList)
    return layers


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model compute in float32, each layer cast only while it runs; shorten windows."""

    def widen(layer: nn.Module, _: tuple[Any, ...]) -> None:
        layer.float()

    def narrow(layer: nn.Module, _: tuple[Any, ...], __: Any, stored: torch.dtype) -> None:
        layer.to(stored)

    inside = f"{layers_path(model)}."
    for name, parameter in model.named_parameters():
        if not name.startswith(inside):
            parameter.data = parameter.data.float()
    for layer in _layers(model):
        stored = next(layer.parameters()).dtype
        layer.register_forward_pre_hook(widen)
        layer.register_forward_hook(partial(narrow, stored=stored))
    known = model.config.to_dict()
    for field in _WINDOW_FIELDS:
        if isinstance(known.get(field), int) and known[field] > _WINDOW:
            setattr(model.config, field, _WINDOW)
    return model.eval()


def _logits(model: PreTrainedModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits
