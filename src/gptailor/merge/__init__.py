"""How layers are merged: one file per method, with its declaration and its formula.

`merge` calls a method by its name on tensors of one weight; `merge_layer` merges every tensor of a
layer. Importing this package does not import torch, so `Tensor` is for annotations only.
"""

from typing import TYPE_CHECKING, Any

from gptailor.core.merge_spec import MergeSpec, merge_method
from gptailor.core.params import Range

if TYPE_CHECKING:
    from torch import Tensor

    from gptailor.merge.apply import merge
    from gptailor.merge.layer import merge_layer
else:
    Tensor = Any

__all__ = ["MergeSpec", "Range", "Tensor", "merge", "merge_layer", "merge_method"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used (PEP 562)."""
    if name == "merge":
        from gptailor.merge.apply import merge

        return merge
    if name == "merge_layer":
        from gptailor.merge.layer import merge_layer

        return merge_layer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
