"""Residual streams of calibration rows, and what goes into one linear map of a layer.

Baselines and repairs are computed from these.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.engine.batches import Batch
from gptailor.engine.engine import Engine
from gptailor.engine.walk import run_layer
from gptailor.tasks.task import Passage

__all__ = ["Streams", "pack_rows"]


def pack_rows(rows: Sequence[tuple[int, ...]], engine: Engine) -> tuple[Batch, ...]:
    """Pack rows of two or more token ids; the last token of each is only predicted, not run."""
    passages = [Passage(row[:1], (row[1:],)) for row in rows]
    return engine.pack(passages)


class Streams:
    """Runs layers on calibration rows.

    States are lists of one tensor (B, T, H) a batch, in the family's dtype, on the engine's
    device. `real` are the tokens that are no padding; `kept` are these but for the first of each
    row, which have activations far larger than all others.

    Args:
        engine: Has the members and makes the layers.
        rows: Token ids, two or more each.
    """

    def __init__(self, engine: Engine, rows: Sequence[tuple[int, ...]]) -> None:
        self.engine = engine
        self.batches = pack_rows(rows, engine)
        self.real = [(batch.ends > 0).to(engine.device) for batch in self.batches]  # (B, T) each
        self.kept = [
            real & (batch.positions > 0).to(engine.device)
            for real, batch in zip(self.real, self.batches, strict=True)
        ]
        self._arguments: list[tuple[Mapping[str, Any], ...]] = []

    @property
    def n_tokens(self) -> int:
        """Tokens that are run through each layer, padding counted."""
        return sum(batch.n_tokens for batch in self.batches)

    def row_numbers(self, batch: int) -> Tensor:
        """The row that each token of a batch is from, the first of those that share it: (B, T).

        int64, on the CPU; -1 at padding.
        """
        one = self.batches[batch]
        numbers = torch.tensor([one.numbers[passage] for passage, _ in one.spans])
        places = one.gather[one.target_place]  # each token predicts the next one of its row
        found = torch.full((one.n_tokens,), -1)
        found.scatter_reduce_(0, places, numbers[one.target_span], "amin", include_self=False)
        return found.reshape(one.tokens.shape)

    def arguments(self, batch: int, position: int) -> Mapping[str, Any]:
        """The arguments, besides the states of a batch, of a layer at an original position."""
        if not self._arguments:
            self.embedded(Tailoring.whole(BASE, self.engine.family.n_layers))
        return self._arguments[batch][position]

    @torch.inference_mode()
    def embedded(self, tailoring: Tailoring) -> list[Tensor]:
        """The states that enter the first layer."""
        inputs = [self.engine.skeleton.inputs(tailoring, batch) for batch in self.batches]
        if not self._arguments:
            self._arguments = [each.arguments for each in inputs]
        return [each.hidden for each in inputs]

    @torch.inference_mode()
    def run(self, spec: LayerSpec, states: Sequence[Tensor]) -> list[Tensor]:
        """The states after one layer."""
        layer = self.engine.layers.get(spec)
        return [self._run(layer, spec, batch, state) for batch, state in enumerate(states)]

    def along(self, tailoring: Tailoring) -> Iterator[list[Tensor]]:
        """The states that enter each layer of a model in turn, and those after the last."""
        states = self.embedded(tailoring)
        yield states
        for spec in tailoring.layers:
            states = self.run(spec, states)
            yield states

    @torch.inference_mode()
    def tapped(
        self, spec: LayerSpec, states: Sequence[Tensor], name: str
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Run one layer and record what goes into one of its linear maps.

        Args:
            spec: The layer.
            states: What enters the layer, of all batches or of the first ones.
            name: The linear map's name inside the layer, such as ``mlp.down_proj``.

        Yields:
            For each batch the inputs of the linear map, (B, T, F), and the states after the layer.
        """
        layer = self.engine.layers.get(spec)
        inputs: list[Tensor] = []

        def record(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            inputs.append(given[0])

        handle = layer.get_submodule(name).register_forward_pre_hook(record)
        try:
            for batch, before in enumerate(states):
                after = self._run(layer, spec, batch, before)
                # OPT flattens rows before its last maps
                yield inputs.pop().reshape(*before.shape[:2], -1), after
        finally:
            handle.remove()

    def _run(self, layer: nn.Module, spec: LayerSpec, batch: int, states: Tensor) -> Tensor:
        self.engine.stream_layer_tokens += self.batches[batch].n_tokens
        return run_layer(layer, states, self.arguments(batch, spec.position))
