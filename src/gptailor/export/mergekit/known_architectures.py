"""The architectures that mergekit writes whole with other layers than before: data, no more.

mergekit has a list of tensors for each; what is not on the list is left out of what it writes, and
what is on it must be there. Of others it leaves the config's number of layers as it was, or fails
at a config with a list of one entry a layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KNOWN", "KnownArchitecture"]


@dataclass(frozen=True, slots=True)
class KnownArchitecture:
    """What mergekit knows of one model type.

    Args:
        architecture: The class that ``config.json`` must name.
        layer: The tensors of a layer that it asks for, by their names in memory.
        optional: Those that it takes along where they are.
        tied: Whether the head may be tied to the embedding.
        untied: Whether there may be a head of its own.
    """

    architecture: str
    layer: frozenset[str]
    optional: frozenset[str] = frozenset()
    tied: bool = True
    untied: bool = True


def _named(stem: str, names: str, end: str = "weight") -> list[str]:
    return [f"{stem}{name}.{end}" for name in names.split()]


_ATTENTION = _named("self_attn.", "q_proj k_proj v_proj o_proj")
_ATTENTION_NORMS = _named("self_attn.", "q_norm k_norm")
_QKV_BIASES = frozenset(_named("self_attn.", "q_proj k_proj v_proj", "bias"))
_BIASES = [*_QKV_BIASES, "self_attn.o_proj.bias"]
_NORMS = _named("", "input_layernorm post_attention_layernorm")
_NORM_BIASES = _named("", "input_layernorm post_attention_layernorm", "bias")
_MLP = _named("mlp.", "gate_proj up_proj down_proj")
_EXPERTS = ["mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
_LLAMA = frozenset([*_NORMS, *_ATTENTION, *_MLP])

KNOWN: Mapping[str, KnownArchitecture] = {
    "apertus": KnownArchitecture(
        "ApertusForCausalLM",
        frozenset(
            [
                *_named("", "attention_layernorm feedforward_layernorm mlp.up_proj mlp.down_proj"),
                *(f"mlp.act_fn.{name}" for name in ("alpha_n", "alpha_p", "beta", "eps")),
                *_ATTENTION,
                *_ATTENTION_NORMS,
            ]
        ),
    ),
    "gemma": KnownArchitecture("GemmaForCausalLM", _LLAMA, untied=False),
    "glm4": KnownArchitecture(
        "Glm4ForCausalLM",
        frozenset(
            [
                *_named("", "post_mlp_layernorm post_self_attn_layernorm"),
                *_named("mlp.", "gate_up_proj down_proj"),
                *_NORMS,
                *_ATTENTION,
            ]
        ),
        _QKV_BIASES,
    ),
    "granite": KnownArchitecture(
        "GraniteForCausalLM",
        _LLAMA,
        frozenset([*_BIASES, *_named("mlp.", "gate_proj up_proj down_proj", "bias")]),
    ),
    "llama": KnownArchitecture("LlamaForCausalLM", _LLAMA),
    "mistral": KnownArchitecture("MistralForCausalLM", _LLAMA),
    "mixtral": KnownArchitecture(
        "MixtralForCausalLM", frozenset([*_NORMS, *_ATTENTION, *_EXPERTS])
    ),
    "olmo2": KnownArchitecture(
        "Olmo2ForCausalLM",
        frozenset(
            [
                *_named("", "post_attention_layernorm post_feedforward_layernorm"),
                *_ATTENTION,
                *_ATTENTION_NORMS,
                *_MLP,
            ]
        ),
    ),
    "phi3": KnownArchitecture(
        "Phi3ForCausalLM",
        frozenset(
            [
                *_named("self_attn.", "qkv_proj o_proj"),
                *_named("mlp.", "gate_up_proj down_proj"),
                *_NORMS,
            ]
        ),
        tied=False,
    ),
    "qwen3_moe": KnownArchitecture(
        "Qwen3MoeForCausalLM",
        frozenset([*_NORMS, *_ATTENTION, *_ATTENTION_NORMS, *_EXPERTS]),
    ),
    "stablelm": KnownArchitecture(
        "StableLmForCausalLM",
        frozenset([*_NORMS, *_NORM_BIASES, *_ATTENTION, *_MLP]),
        _QKV_BIASES,
        tied=False,
    ),
    "starcoder2": KnownArchitecture(
        "Starcoder2ForCausalLM",
        frozenset(
            [
                *_named("mlp.", "c_fc c_proj"),
                *_named("mlp.", "c_fc c_proj", "bias"),
                *_NORMS,
                *_NORM_BIASES,
                *_ATTENTION,
                *_BIASES,
            ]
        ),
    ),
}
