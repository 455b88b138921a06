"""The members of a family: checkpoints, adapters and GGUF files, opened and compared."""

from gptailor.core.specs import MemberSpec
from gptailor.family.architecture import (
    layer_kinds,
    layers_path,
    refuse_unsupported,
    tailored_config,
)
from gptailor.family.family import Family
from gptailor.family.loading import family_of, load_family

__all__ = [
    "Family",
    "MemberSpec",
    "family_of",
    "layer_kinds",
    "layers_path",
    "load_family",
    "refuse_unsupported",
    "tailored_config",
]
