"""How layers are merged: one method, one small pure function on tensors.

`merge` calls a method by its name on tensors that stand for one weight; `merge_layer` does so for
every tensor of a layer. What is true of a method without tensors (parameters, limits, symmetry) is
in `gptailor.core.merge_spec`. Knows nothing of models, files or architectures.
"""

from gptailor.merge.apply import merge
from gptailor.merge.layer import merge_layer

__all__ = ["merge", "merge_layer"]
