"""Which names of a model's weights belong to its layers, embedding, norm and head."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from gptailor.errors import FamilyError
from gptailor.family.architecture import layers_path, n_layers_of

__all__ = ["OUTER_PARTS", "Layout"]

OUTER_PARTS = ("embedding", "norm", "head")
_BEFORE_LAYERS = re.compile(r"emb|wte|wpe|project_in")
_AFTER_LAYERS = re.compile(r"norm|ln|final|project_out")


@dataclass(frozen=True)
class Layout:
    """The names of the list of layers, the embedding and the head."""

    layers: str
    n_layers: int
    embedding: str  # of a weight of shape (V, H)
    head: str  # of a weight of shape (V, H)
    tied: bool  # whether the two are one tensor

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Layout":
        """The layout of a model; its weights may be on meta."""
        embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
        if embedding is None or head is None:
            raise FamilyError(
                f"models of type {model.config.model_type!r} are not supported: "
                "no embedding or no output head was found"
            )
        names = {module: f"{name}.weight" for name, module in model.named_modules()}
        return cls(
            layers=layers_path(model),
            n_layers=n_layers_of(model.config),
            embedding=names[embedding],
            head=names[head],
            tied=head.weight is embedding.weight,
        )

    def layer_of(self, name: str) -> tuple[int, str] | None:
        """The layer and the name inside it, or None for a name outside the layers."""
        if not name.startswith(f"{self.layers}."):
            return None
        number, _, inner = name[len(self.layers) + 1 :].partition(".")
        return int(number), inner

    def part_of(self, name: str) -> str:
        """The outer part that a name outside the layers belongs to."""
        if name.startswith(self.head.removesuffix("weight")):
            return "head"
        if name == self.embedding or _BEFORE_LAYERS.search(name):
            return "embedding"
        if _AFTER_LAYERS.search(name):
            return "norm"
        raise FamilyError(
            f"tensor {name!r} is outside the layers and it is not known whether before or "
            "after them; this architecture is not supported"
        )

    def layers_of(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
        """Divide a state dict into its layers, by names inside the layer."""
        layers: tuple[dict[str, Tensor], ...] = tuple({} for _ in range(self.n_layers))
        for name, tensor in state.items():
            if found := self.layer_of(name):
                layers[found[0]][found[1]] = tensor
        return layers

    def parts_of(self, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Divide the tensors outside the layers into the three outer parts, by full names."""
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in OUTER_PARTS}
        for name, tensor in state.items():
            if self.layer_of(name) is None:
                parts[self.part_of(name)][name] = tensor
        return parts
