"""The architectures that mergekit can write with fewer layers, as data.

mergekit has a list of tensors for each: what is not listed is left out of what it writes, and what
is listed must be there. For other architectures it leaves the config's number of layers as it was,
or fails at a config with a list of one entry per layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["KNOWN", "KnownArchitecture"]


@dataclass(frozen=True, slots=True)
class KnownArchitecture:
    """What mergekit knows of one model type.

    Args:
        architecture: The class that ``config.json`` must name.
        layer: The tensors of a layer that it requires, by their names in memory.
        optional: Those that it copies where they are present.
        tied: Whether the head may be tied to the embedding.
        untied: Whether there may be a head of its own.
    """

    architecture: str
    layer: frozenset[str]
    optional: frozenset[str] = frozenset()
    tied: bool = True
    untied: bool = True


def _names(*stems: str) -> frozenset[str]:
    """Spell out ``stem{a,b}end`` as ``stemaend`` and ``stembend``."""
    names = []
    for stem in stems:
        start, _, rest = stem.partition("{")
        choices, _, end = rest.partition("}")
        names += [f"{start}{choice}{end}" for choice in choices.split(",")]
    return frozenset(names)


_ATTENTION = "self_attn.{q,k,v,o}_proj.weight"
_ATTENTION_NORMS = "self_attn.{q,k}_norm.weight"
_BIASES = "self_attn.{q,k,v,o}_proj.bias"
_QKV_BIASES = "self_attn.{q,k,v}_proj.bias"
_NORMS = "{input,post_attention}_layernorm.weight"
_NORM_BIASES = "{input,post_attention}_layernorm.bias"
_MLP = "mlp.{gate,up,down}_proj.weight"
_EXPERTS = "mlp.{gate.weight,experts.gate_up_proj,experts.down_proj}"
_LLAMA = _names(_NORMS, _ATTENTION, _MLP)

KNOWN: Mapping[str, KnownArchitecture] = {
    "apertus": KnownArchitecture(
        "ApertusForCausalLM",
        _names(
            "{attention_layernorm,feedforward_layernorm,mlp.up_proj,mlp.down_proj}.weight",
            "mlp.act_fn.{alpha_n,alpha_p,beta,eps}",
            _ATTENTION,
            _ATTENTION_NORMS,
        ),
    ),
    "gemma": KnownArchitecture("GemmaForCausalLM", _LLAMA, untied=False),
    "glm4": KnownArchitecture(
        "Glm4ForCausalLM",
        _names("post_{mlp,self_attn}_layernorm.weight", "mlp.{gate_up,down}_proj.weight")
        | _names(_NORMS, _ATTENTION),
        _names(_QKV_BIASES),
    ),
    "granite": KnownArchitecture(
        "GraniteForCausalLM", _LLAMA, _names(_BIASES, "mlp.{gate,up,down}_proj.bias")
    ),
    "llama": KnownArchitecture("LlamaForCausalLM", _LLAMA),
    "mistral": KnownArchitecture("MistralForCausalLM", _LLAMA),
    "mixtral": KnownArchitecture("MixtralForCausalLM", _names(_NORMS, _ATTENTION, _EXPERTS)),
    "olmo2": KnownArchitecture(
        "Olmo2ForCausalLM",
        _names("post_{attention,feedforward}_layernorm.weight")
        | _names(_ATTENTION, _ATTENTION_NORMS, _MLP),
    ),
    "phi3": KnownArchitecture(
        "Phi3ForCausalLM",
        _names("self_attn.{qkv,o}_proj.weight", "mlp.{gate_up,down}_proj.weight", _NORMS),
        tied=False,
    ),
    "qwen3_moe": KnownArchitecture(
        "Qwen3MoeForCausalLM", _names(_NORMS, _ATTENTION, _ATTENTION_NORMS, _EXPERTS)
    ),
    "stablelm": KnownArchitecture(
        "StableLmForCausalLM",
        _names(_NORMS, _NORM_BIASES, _ATTENTION, _MLP),
        _names(_QKV_BIASES),
        tied=False,
    ),
    "starcoder2": KnownArchitecture(
        "Starcoder2ForCausalLM",
        _names("mlp.c_{fc,proj}.weight", "mlp.c_{fc,proj}.bias", _NORMS, _NORM_BIASES)
        | _names(_ATTENTION, _BIASES),
    ),
}
