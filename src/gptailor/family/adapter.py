"""Merge a PEFT adapter into a model's weights, in float32: the door to peft.

Knows nothing of families: it is given the weights that the adapter stands on.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gptailor.errors import FamilyError
from gptailor.family.files import LIBRARY_FAULTS, one_line, read_json, told
from gptailor.family.members import OpenedMember
from gptailor.family.quiet import quiet
from gptailor.family.skeleton import model_around

__all__ = ["CONFIG", "apply_adapter"]

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
# adapters that become part of the weights; prompts and prefixes can't
_MERGED = frozenset(
    [
        *("ADALORA", "BOFT", "C3A", "DELORA", "FOURIERFT", "HIRA", "HRA", "IA3", "LN_TUNING"),
        *("LOHA", "LOKR", "LORA", "MISS", "OFT", "RANDLORA", "ROAD", "SHIRA", "VBLORA", "VERA"),
        "WAVEFT",
    ]
)
# fields that make peft load other code, or change the number of layers
_REFUSED_FIELDS = ("megatron_config", "layer_replication")


def apply_adapter(base: OpenedMember, folder: Path, *, strength: float) -> dict[str, Tensor]:
    """Merge the adapter in `folder` into the weights of `base`.

    ``base + strength * (merged - base)``, in float32.

    Args:
        base: What the adapter stands on, its weights in float32; untouched.
        folder: With an adapter_config.json and an adapter_model.safetensors.
        strength: Dimensionless; 1 is the adapter as it was trained.

    Returns:
        Names and float32 tensors; those that the adapter does not touch are the base's own.

    Raises:
        FamilyError: The adapter is broken, or does not fit the base.
    """
    if not math.isfinite(strength):
        raise FamilyError(f"{folder}: strength is {strength}; it must be a finite number")
    fields = _fields_of(folder)
    weights = _weights_of(folder)
    merged = _merged(base, folder, weights, apart=not _leaves_base_alone(fields))
    return {name: _scaled(tensor, merged[name], strength) for name, tensor in base.state.items()}


def _scaled(base: Tensor, merged: Tensor, strength: float) -> Tensor:
    if merged.data_ptr() == base.data_ptr() or torch.equal(merged, base):
        return base
    return merged if strength == 1.0 else base + strength * (merged - base)


def _fields_of(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    fields = read_json(path)
    kind = fields.get("peft_type")
    if not isinstance(kind, str) or kind not in _MERGED:
        raise FamilyError(
            f"{path}: adapters of type {kind!r} can't be merged into weights; "
            f"these can: {', '.join(sorted(_MERGED))}"
        )
    for name in _REFUSED_FIELDS:
        if fields.get(name):
            raise FamilyError(f"{path}: {name} is not supported; merge the adapter with peft first")
    return fields


def _weights_of(folder: Path) -> dict[str, Tensor]:
    path = folder / _WEIGHTS
    if not path.is_file():
        pickle = folder / "adapter_model.bin"
        hint = (
            f"{pickle.name} is a pickle, which can run code; load the adapter with peft once and "
            "save it again to get safetensors"
            if pickle.is_file()
            else "copy or download the adapter again"
        )
        raise FamilyError(f"{path} is missing; {hint}")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as fault:
        raise FamilyError(f"{path} is not a whole safetensors file: {one_line(fault)}") from fault
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FamilyError(f"{path}: tensor {name} holds values that are not finite")
    return weights


def _leaves_base_alone(fields: Mapping[str, Any]) -> bool:
    return (
        fields["peft_type"] == "LORA"
        and fields.get("bias", "none") == "none"
        and fields.get("init_lora_weights", True) in (True, False, "gaussian")
        and not fields.get("modules_to_save")
        and not fields.get("trainable_token_indices")
    )


def _merged(
    base: OpenedMember, folder: Path, weights: dict[str, Tensor], *, apart: bool
) -> dict[str, Tensor]:
    """Let peft merge; `apart` when it would write into the model that it is given."""
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict

    state = {name: t.clone() if apart else t for name, t in base.state.items()}
    model = model_around(base.config, state, torch.float32)
    try:
        with quiet(), torch.no_grad():
            config = PeftConfig.from_pretrained(str(folder))
            config.inference_mode = True
            # on meta nothing is drawn at random first; some initial values need real weights
            wrapped = get_peft_model(model, config, low_cpu_mem_usage=not apart)
            outcome = set_peft_model_state_dict(wrapped, weights, low_cpu_mem_usage=not apart)
            _refuse_misfits(folder, outcome, wrapped.base_model.prefix)
            # safe_merge: into new tensors, and refused where the result is not finite
            merged = wrapped.merge_and_unload(safe_merge=True)
    except LIBRARY_FAULTS as fault:
        raise FamilyError(
            f"{folder}: the adapter does not fit {base.origin}: {one_line(fault)}"
        ) from fault
    return {name: tensor.detach() for name, tensor in merged.state_dict().items()}


def _refuse_misfits(folder: Path, outcome: Any, prefix: str) -> None:  # peft is untyped here
    unexpected = sorted(outcome.unexpected_keys)
    if unexpected:
        raise FamilyError(
            f"{folder / _WEIGHTS}: {len(unexpected)} tensors have no place in the base "
            f"({told(unexpected)}); the adapter is for another model"
        )
    missing = sorted(name for name in outcome.missing_keys if prefix in name)
    if missing:
        raise FamilyError(
            f"{folder / _WEIGHTS} lacks {len(missing)} tensors that adapter_config.json asks for "
            f"({told(missing)})"
        )
