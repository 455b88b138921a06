"""Merge a PEFT adapter into a model's weights, in float32."""

import copy
import dataclasses
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from gptailor.errors import FamilyError, listed
from gptailor.family.empty_model import model_around, skeleton_of
from gptailor.family.family import OpenedMember
from gptailor.family.layout import Layout
from gptailor.family.leads import elsewhere
from gptailor.family.library_calls import library_call
from gptailor.family.multimodal import language_model, names_whole
from gptailor.family.weight_files import read_json, refuse_bad_files, unreadable

__all__ = ["CONFIG", "apply_adapter"]

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
# adapters that can be merged into weights; prompts, prefixes and mixtures by input can't
_MERGED = frozenset(
    [
        *("ADALORA", "ADAMSS", "BEFT", "BOFT", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD"),
        *("GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LN_TUNING", "LOHA", "LOKR", "LORA", "MISS"),
        *("OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA", "SUPERTUNING"),
        *("TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT"),
    ]
)
# fields by which peft loads other code, changes the number of layers, or acts on some inputs only
_REFUSED_FIELDS = {
    "megatron_config": "is not supported; merge the adapter with peft first",
    "layer_replication": "is not supported; merge the adapter with peft first",
    "alora_invocation_tokens": "makes it act on part of a text only, so it can't become weights",
    "arrow_config": "chooses among adapters by the text, so it can't become weights",
}
_OTHER_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS", "SEQ_2_SEQ_LM")
# fields by which peft writes into the weights of its base model
_WRITING = ("modules_to_save", "trainable_token_indices", "kasa_config", "target_parameters")
_PREFIX = "base_model.model."
_SAVED = ".modules_to_save."
_N_TOKENS = 8  # enough to notice a weight that was merged wrongly
_TOLERANCE = 1e-3  # of the largest logit: float32 in another order differs by less than 1e-4


def apply_adapter(
    base: OpenedMember, folder: Path, *, strength: float
) -> tuple[Any, dict[str, Tensor], list[str]]:
    """Merge the adapter in `folder` into the weights of `base`: ``base + strength * change``.

    In float32; `strength` 1 is the adapter as it was trained. The merged model's logits are
    compared with those of peft's own forward on a few tokens.

    Returns:
        The config, whose vocabulary may be larger than the base's; float32 tensors by name, the
        base's own where the adapter does not change them; and notes.
    """
    fields, weights = _fields_of(folder), _weights_of(folder)
    base = _with_room(base, folder, weights)
    merged = _merged(base, folder, weights, apart=not _leaves_base_alone(fields, weights))
    state = {name: _scaled(tensor, merged[name], strength) for name, tensor in base.state.items()}
    return base.config, state, _notes(folder, fields)


def _notes(folder: Path, fields: Mapping[str, Any]) -> list[str]:
    """A note on keys of an adapter's config that the installed peft does not know.

    A key that is off (null, false, empty) says nothing.
    """
    import peft
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[fields["peft_type"]]
    known = {field.name for field in dataclasses.fields(config_class)}
    unread = sorted(name for name in fields.keys() - known if fields[name])
    if not unread:
        return []
    made = f" by peft {fields['peft_version']}" if fields.get("peft_version") else ""
    return [
        f"{folder / CONFIG} was written{made} and has {listed(unread)}, which peft "
        f"{peft.__version__} does not know and ignores; its weights may mean something else"
    ]


def _scaled(base: Tensor, merged: Tensor, strength: float) -> Tensor:
    if merged.data_ptr() == base.data_ptr() or torch.equal(merged, base):
        return base
    return merged if strength == 1.0 else base + strength * (merged - base)


def _with_room(base: OpenedMember, folder: Path, weights: Mapping[str, Tensor]) -> OpenedMember:
    """Give the base as many rows of vocabulary as the adapter was trained with; new ones are 0."""
    layout = Layout.of(skeleton_of(base.config, torch.float32))
    n_rows = base.state[layout.embedding].shape[0]
    counts = _vocabularies(weights, layout)
    wanted = max(counts.values(), default=n_rows)
    for name, count in counts.items():
        if count < n_rows or count != wanted:
            raise FamilyError(
                f"{folder / _WEIGHTS}: tensor {name} is for a vocabulary of {count} rows but "
                f"{base.path} has {n_rows}; the adapter is for another model"
            )
    if wanted == n_rows:
        return base
    config = copy.deepcopy(base.config)
    config.vocab_size = wanted
    bias = f"{layout.head.removesuffix('weight')}bias"
    state = {
        name: torch.cat([tensor, tensor.new_zeros(wanted - n_rows, *tensor.shape[1:])])
        if name in (layout.embedding, layout.head, bias)
        else tensor
        for name, tensor in base.state.items()
    }
    return dataclasses.replace(base, config=config, state=state)


def _vocabularies(weights: Mapping[str, Tensor], layout: Layout) -> dict[str, int]:
    """Rows of vocabulary by tensor, for those tensors of an adapter that have a row a token."""
    axes = {"weight": 0, "base_layer.weight": 0, "lora_embedding_A": 1}
    counts = {}
    for matrix, own_axes in ((layout.embedding, {}), (layout.head, {"lora_B.weight": 0})):
        for inner, axis in {**axes, **own_axes}.items():
            name = _PREFIX + matrix.removesuffix("weight") + inner
            if name in weights and weights[name].ndim == 2:
                counts[name] = weights[name].shape[axis]
    return counts


def _fields_of(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    refuse_bad_files(folder)
    fields = read_json(path)
    kind = fields.get("peft_type")
    if not isinstance(kind, str) or kind not in _MERGED:
        raise FamilyError(
            f"{path}: adapters of type {kind!r} can't be merged into weights; "
            f"these can: {', '.join(sorted(_MERGED))}"
        )
    task = fields.get("task_type")
    if task in _OTHER_TASKS:
        raise FamilyError(
            f"{path}: task_type is {task}: it was trained to score or label texts and predicts no "
            "tokens; give an adapter of a causal language model"
        )
    for name, why in _REFUSED_FIELDS.items():
        if fields.get(name):
            raise FamilyError(f"{path}: {name} {why}")
    return fields


def _weights_of(folder: Path) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    if not path.is_file():
        raise FamilyError(_no_weights(path))
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FamilyError(f"{path} {unreadable(path, error)}") from error
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FamilyError(f"{path}: tensor {name} holds values that are not finite")
    # peft may save a resized embedding twice, once by a name that it does not read
    twice = [name for name in weights if name.replace(_SAVED, ".") in weights.keys() - {name}]
    return {name: tensor for name, tensor in weights.items() if name not in twice}


def _no_weights(path: Path) -> str:
    pickle = path.with_name("adapter_model.bin")
    if not pickle.is_file():
        again = "copy or download the adapter again"
        return f"{path} is missing; {again}{elsewhere(path.parent, path.name)}"
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"a = torch.load({str(pickle)!r}, map_location='cpu', weights_only=True); "
        f"save_file({{k: v.clone() for k, v in a.items()}}, {str(path)!r})"
    )
    return (
        f"{path} is missing, and {pickle.name} is a pickle, which can run code and is not opened; "
        f"convert an adapter that you trust once: python -c {shlex.quote(code)}"
    )


def _leaves_base_alone(fields: Mapping[str, Any], weights: Mapping[str, Tensor]) -> bool:
    """Whether peft makes and loads the adapter without writing into the base's tensors."""
    return (
        fields["peft_type"] == "LORA"
        and fields.get("bias", "none") == "none"
        and fields.get("init_lora_weights", True) in (True, False, "gaussian")
        and not any(fields.get(field) for field in _WRITING)
        and all(".lora_" in name for name in weights)
    )


def _merged(
    base: OpenedMember, folder: Path, weights: dict[str, Tensor], *, apart: bool
) -> dict[str, Tensor]:
    """Let peft merge; `apart`, in a copy, where it would write into its base model."""
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    model = _model_for(base, weights)
    model = copy.deepcopy(model) if apart else model
    with library_call(f"{folder}: the adapter does not fit {base.path}"), torch.no_grad():
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        config.task_type = None  # for logits, whatever it was trained for
        # on meta no initial values are drawn; some kinds need real weights for them
        wrapped = get_peft_model(model, config, low_cpu_mem_usage=not apart).eval()
        outcome = set_peft_model_state_dict(wrapped, weights, low_cpu_mem_usage=not apart)
        _refuse_misfits(folder, outcome, wrapped)
        expected = _logits(wrapped)
        # safe_merge: into new tensors, and refused where the result is not finite
        merged = wrapped.merge_and_unload(safe_merge=True)
        _refuse_outside(folder, base, merged)
        state = language_model(merged).state_dict()
        found = {name: tensor.detach() for name, tensor in state.items() if name in base.state}
        computed = _logits(model_around(base.config, found, torch.float32))
    _refuse_inexact(folder, base, expected, computed)
    return found


def _model_for(base: OpenedMember, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """The language model, or the whole multimodal one where the adapter was trained on that."""
    model, wrapper = model_around(base.config, base.state, torch.float32), base.multimodal_wrapper
    if wrapper and any(names_whole(name.removeprefix(_PREFIX)) for name in weights):
        return wrapper.around(model, torch.float32)
    return model


def _refuse_outside(folder: Path, base: OpenedMember, merged: PreTrainedModel) -> None:
    """Refuse an adapter that changes tensors outside the language model."""
    state = merged.state_dict()
    around = {} if base.multimodal_wrapper is None else base.multimodal_wrapper.state
    changed = [
        name for name, t in around.items() if name in state and not torch.equal(t, state[name])
    ]
    if changed:
        raise FamilyError(
            f"{folder}: the adapter changes {len(changed)} tensors outside the language model "
            f"({listed(changed)}), and these stay as the base has them, so it can't be used"
        )


def _logits(model: Any) -> Tensor:  # peft is untyped here
    tokens = torch.arange(_N_TOKENS)[None]
    logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def _refuse_inexact(folder: Path, base: OpenedMember, expected: Tensor, computed: Tensor) -> None:
    difference = float((expected - computed).abs().max())
    if difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        return
    tied = f"; {base.path} uses its embedding as the head, and it may change only one of the two"
    raise FamilyError(
        f"{folder}: merged into the weights, the adapter computes something else than it does as "
        f"an adapter (logits differ by {difference:.2g}), so it can't be used"
        + (tied if base.tied else "")
    )


def _refuse_misfits(folder: Path, outcome: Any, wrapped: Any) -> None:  # peft is untyped here
    unexpected = sorted(outcome.unexpected_keys)
    if unexpected:
        raise FamilyError(
            f"{folder / _WEIGHTS}: {len(unexpected)} tensors have no place in the base "
            f"({listed(unexpected)}); the adapter is for another model"
        )
    lacking = set(outcome.missing_keys)
    held = dict(wrapped.named_parameters(remove_duplicate=False))
    loaded = {id(tensor) for name, tensor in held.items() if name not in lacking}
    missing = sorted(
        name
        for name in lacking
        # one tensor may serve many modules, and is then stored once
        if wrapped.base_model.prefix in name and not (name in held and id(held[name]) in loaded)
    )
    if missing:
        raise FamilyError(
            f"{folder / _WEIGHTS} lacks {len(missing)} tensors that adapter_config.json asks for "
            f"({listed(missing)})"
        )
