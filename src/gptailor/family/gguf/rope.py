"""Put a GGUF file's scaling of rotary embeddings into the transformers config.

transformers does not read it; without this, queries and keys would be rotated by other angles.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gptailor.errors import FamilyError
from gptailor.family.gguf.gguf_header import GgufHeader

__all__ = ["ROPE_FACTORS", "rope_from_gguf"]

_LLAMA3 = "rope_freqs.weight"
ROPE_FACTORS = frozenset([_LLAMA3, "rope_factors_long.weight", "rope_factors_short.weight"])
_ADVICE = "which can't be read from GGUF; give the original checkpoint"
# of Llama 3.1, 3.2 and 3.3; the factor alone differs between them
_LLAMA3_FIELDS = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def rope_from_gguf(
    path: Path, header: GgufHeader, config: Any, factors: Mapping[str, np.ndarray]
) -> None:
    """Put a file's scaling of rotary embeddings into the rope_parameters of a transformers config.

    `factors` are divisors of the frequencies, by the tensor's name; there may be none.
    """
    others = ", ".join(sorted(factors.keys() - {_LLAMA3}))
    if factors and not others:
        config.rope_parameters = _llama3(path, config, factors[_LLAMA3])
        return
    kind = header.about("rope.scaling.type")
    factor = header.about("rope.scaling.factor") or header.about("rope.scale_linear") or 1.0
    if not others and kind in (None, "none") and factor == 1.0:
        return
    parameters = getattr(config, "rope_parameters", None)
    linear = kind in (None, "linear") and isinstance(factor, float)
    if others or not linear or not parameters:
        scaling = others or f"{kind}, {factor}"
        raise FamilyError(f"{path}: it scales rotary embeddings ({scaling}), {_ADVICE}")
    if factor == 1.0:
        return
    scaled = {"rope_type": "linear", "factor": factor}
    if "rope_type" in parameters:
        config.rope_parameters = {**parameters, **scaled}
    else:  # one for each kind of layer; layers with a window are not scaled
        full = {**parameters["full_attention"], **scaled}
        config.rope_parameters = {**parameters, "full_attention": full}


def _llama3(path: Path, config: Any, factors: np.ndarray) -> dict[str, Any]:
    """The parameters of Llama 3's scaling that give these factors."""
    plain = dict(config.rope_parameters)
    parameters = {**plain, **_LLAMA3_FIELDS, "factor": round(float(factors.max()), 4)}
    if math.isfinite(parameters["factor"]) and parameters["factor"] >= 1:
        config.rope_parameters = parameters
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        config.rope_parameters = plain
        steps = np.arange(factors.size) / factors.size
        unscaled = plain["rope_theta"] ** -steps
        if scaled.shape[0] == factors.size and np.allclose(
            unscaled / factors, scaled.numpy(), rtol=1e-4, atol=0
        ):
            return parameters
    raise FamilyError(
        f"{path}: its rotary frequencies ({_LLAMA3}) are not scaled as Llama 3's are, {_ADVICE}"
    )
