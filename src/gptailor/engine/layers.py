"""Layer modules by reference: parameters that point at a member's tensors, or at a merged set.

A layer taken from one source costs a few Python objects; a merged one costs its weights, and those
are kept while they fit a limit in bytes, the longest unused going first. Knows nothing of batches.
"""

import copy
from collections import OrderedDict

from torch import nn

from gptailor.engine.weights import layer_weights
from gptailor.family import Family
from gptailor.tailoring import LayerSpec

__all__ = ["LayerCache"]


class LayerCache:
    """Make each LayerSpec's module once.

    Args:
        family: Where the weights are.
        templates: One layer module on the meta device for each original position: the kind of
            layer that stands there.
        cache_bytes: Most bytes of merged weights kept.
    """

    def __init__(self, family: Family, templates: tuple[nn.Module, ...], cache_bytes: int) -> None:
        self._family = family
        self._templates = templates
        self._cache_bytes = cache_bytes
        self._taken: dict[LayerSpec, nn.Module] = {}
        self._merged: OrderedDict[LayerSpec, tuple[nn.Module, int]] = OrderedDict()
        self.merged_bytes = 0

    def get(self, spec: LayerSpec) -> nn.Module:
        """The module of a layer, in eval mode, without a copy of any weight that exists already."""
        if spec.method is None:
            if spec not in self._taken:
                self._taken[spec] = self._build(spec)[0]
            return self._taken[spec]
        if spec not in self._merged:
            self._keep(spec, *self._build(spec))
        self._merged.move_to_end(spec)
        return self._merged[spec][0]

    def _build(self, spec: LayerSpec) -> tuple[nn.Module, int]:
        tensors = layer_weights(self._family, spec, self._family.dtype)
        module = copy.deepcopy(self._templates[spec.position])
        module.load_state_dict(tensors, strict=True, assign=True)
        module.eval().requires_grad_(False)
        return module, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    def _keep(self, spec: LayerSpec, module: nn.Module, n_bytes: int) -> None:
        """Keep the newest in any case; let go of the longest unused until the limit holds."""
        self._merged[spec] = (module, n_bytes)
        self.merged_bytes += n_bytes
        while self.merged_bytes > self._cache_bytes and len(self._merged) > 1:
            _, (_, freed) = self._merged.popitem(last=False)
            self.merged_bytes -= freed
