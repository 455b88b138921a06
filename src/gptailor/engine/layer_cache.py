"""Layer modules whose parameters are a member's own tensors, or merged ones.

Where the members are on the device, a layer with one source copies no weights; elsewhere it is
copied to the device. Merged and copied layers are kept in LRU caches bounded in bytes.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gptailor.core.lru_cache import LruCache
from gptailor.core.tailoring import LayerSpec
from gptailor.family import Family
from gptailor.family.family import layer_weights
from gptailor.family.memory_map import let_go

__all__ = ["LayerCache"]


class LayerCache:
    """Make each LayerSpec's module, and keep it in an LRU cache.

    `templates` are one layer module on the meta device for each original position. Members' layers
    are copied to the device, at most `member_bytes` of them, unless that is None.
    """

    def __init__(
        self,
        family: Family,
        templates: tuple[nn.Module, ...],
        device: torch.device,
        *,
        cache_bytes: int,
        member_bytes: int | None = None,
    ) -> None:
        self._family, self._templates, self._device = family, templates, device
        self._copies = member_bytes is not None
        self._stream: Any = None  # for copies to a GPU; torch's streams are untyped
        if self._copies and device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.taken = LruCache[LayerSpec, nn.Module](member_bytes)  # layers with one source
        self.merged = LruCache[LayerSpec, nn.Module](cache_bytes)

    def get(self, spec: LayerSpec) -> nn.Module:
        """The module of a layer, in eval mode; weights on the device are not copied."""
        own = spec.method is not None or spec.repaired  # has weights of its own
        kept = self.merged if own else self.taken
        module = kept.get(spec)
        if module is not None:
            return module
        module, n_bytes = self._made(spec)
        kept.keep(spec, module, n_bytes)
        return module

    def made(self, spec: LayerSpec) -> nn.Module:
        """The same module where it is kept, else a new one that is not: for a single use."""
        kept = self.merged.get(spec) or self.taken.get(spec)
        return self._made(spec)[0] if kept is None else kept

    def _made(self, spec: LayerSpec) -> tuple[nn.Module, int]:
        """A new module, and the bytes of its weights that are not a member's own."""
        tensors = self.weights(spec)
        module = copy.deepcopy(self._templates[spec.position])
        module.load_state_dict(tensors, strict=True, assign=True)
        module.eval().requires_grad_(False)
        shared = {tensor.data_ptr() for tensor in self._family.layer(spec.sources[0]).values()}
        return module, sum(t.nbytes for t in tensors.values() if t.data_ptr() not in shared)

    def weights(self, spec: LayerSpec) -> Mapping[str, Tensor]:
        """The tensors of a layer on the device, made now."""
        copy_in = _Copier(self._device, self._stream) if self._copies else None
        return layer_weights(self._family, spec, self._family.dtype, copy_in)


class _Copier:
    """Copies tensors of one layer to the device and releases the memory that reading them took.

    To a GPU they go through pinned memory on a stream of its own, so that a layer is copied while
    those before it run. A tensor with several names is copied once.
    """

    def __init__(self, device: torch.device, stream: Any) -> None:
        self._device, self._stream = device, stream
        self._copies: dict[tuple[int, torch.Size], Tensor] = {}

    def __call__(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy one layer's tensors."""
        found = {}
        for name, tensor in tensors.items():
            key = (tensor.data_ptr(), tensor.shape)
            if key not in self._copies:
                self._copies[key] = self._moved(tensor)
            found[name] = self._copies[key]
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        let_go(tensors.values())
        return found

    def _moved(self, tensor: Tensor) -> Tensor:
        if self._stream is None:
            return tensor.to(self._device, copy=True)
        with torch.cuda.stream(self._stream):
            moved = tensor.pin_memory().to(self._device, non_blocking=True)
        moved.record_stream(torch.cuda.current_stream(self._device))
        return moved
