"""How layers are merged: one file per method, with its declaration and its formula.

`merge_method` says what every method gets and returns. Importing this package does not import
torch, so `Tensor` is for annotations only.
"""

from typing import TYPE_CHECKING, Any

from gptailor.core.merge_spec import MergeSpec, merge_method
from gptailor.core.params import Range

if TYPE_CHECKING:
    from torch import Tensor

    from gptailor.merge.apply import merge, merge_layer
else:
    Tensor = Any

__all__ = ["MergeSpec", "Range", "Tensor", "merge", "merge_layer", "merge_method"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used (PEP 562)."""
    if name not in ("merge", "merge_layer"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gptailor.merge import apply

    return apply.merge if name == "merge" else apply.merge_layer
