"""The family's Hugging Face model without its layers: embedding, masks, rotary, norm and head.

The model's own forward is run, so scalings, soft-caps, rotary embeddings and masks are Hugging
Face's. In place of the layers, `_Tap` modules record the arguments each layer is called with, and a
`_Replay` module returns hidden states to the norm and the head.
"""

import contextlib
import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.batches import Batch
from gptailor.engine.cpu.attention import speed_up_attention
from gptailor.engine.cpu.onednn_linear import speed_up_linear
from gptailor.engine.device import moved
from gptailor.errors import FamilyError
from gptailor.family import Family, layers_path
from gptailor.family.architecture import max_positions
from gptailor.family.family import outer_weights

__all__ = ["Inputs", "Skeleton"]

_ALIGNED = 8  # elements: what attention with a mask on a GPU wants rows to begin at


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The arguments of the layers for one batch."""

    hidden: Tensor  # the embedded tokens, (B, T, H) in the family's dtype
    arguments: tuple[Mapping[str, Any], ...]  # by position in the original model: keyword arguments


_Call = tuple[Tensor, dict[str, Any]]  # a layer's hidden state, and its other arguments by name


class _Stop(Exception):  # not an error: the last layer was reached
    """Ends a forward once every layer's arguments are recorded."""


class _Tap(nn.Module):
    """Replaces a layer and records its arguments, all but the hidden state by name."""

    def __init__(
        self, calls: list[_Call], names: tuple[str, ...], *, last: bool, tuples: bool
    ) -> None:
        super().__init__()
        self._calls, self._names, self._last, self._tuples = calls, names, last, tuples

    def forward(self, hidden: Tensor, *unnamed: Any, **arguments: Any) -> Any:
        """Record the call; return the hidden state, or stop after the last layer."""
        named = dict(zip(self._names, unnamed, strict=False))
        self._calls.append((hidden, named | arguments))
        if self._last:
            raise _Stop
        return (hidden, None) if self._tuples else hidden


class _Replay(nn.Module):
    """Replaces all the layers and returns a given result."""

    def __init__(self, hidden: Tensor, *, tuples: bool) -> None:
        super().__init__()
        self._answer = (hidden, None) if tuples else hidden

    def forward(self, hidden: Tensor, *unnamed: Any, **arguments: Any) -> Any:
        """Return the given hidden states, (1, M, H)."""
        return self._answer


class Skeleton:
    """Embed batches, and turn hidden states into logits, for any choice of outer parts."""

    def __init__(self, family: Family, device: torch.device) -> None:
        model = family.skeleton()
        speed_up_linear(model, device)
        speed_up_attention(model, device)
        path = layers_path(model)
        self._parent, _, self._name = path.rpartition(".")
        layers = model.get_submodule(path)
        assert isinstance(layers, nn.ModuleList)
        self.templates: tuple[nn.Module, ...] = tuple(layers)
        setattr(model.get_submodule(self._parent), self._name, nn.ModuleList())
        self._bare, self._family, self._device = model, family, device
        self.vocab_size = int(family.config.vocab_size)
        self._models: dict[tuple[LayerSpec, ...], Any] = {}
        self._allowed: dict[int, tuple[Tensor, ...]] = {}
        self._mask_kinds = tuple(model.config.to_dict().get("layer_types") or ())
        self._names = tuple(inspect.signature(self.templates[0].forward).parameters)[1:]
        self._tuples: bool | None = None  # whether layers return one; found at the first call

    def inputs(self, tailoring: Tailoring, batch: Batch) -> Inputs:
        """Embed a batch and find out the arguments of each original layer.

        Raises:
            FamilyError: The architecture calls its layers in a way that can't be packed.
        """
        model = self._model(tailoring)
        positions = moved(batch.positions, self._device)
        if self._tuples is None:
            self._tuples = self._returns_tuples(model)
        tokens = moved(batch.tokens, self._device)
        calls = self._calls(model, tokens, positions, tuples=self._tuples)
        pairs = zip(calls, self._masks(model, batch, positions), strict=True)
        arguments = tuple({**given, "attention_mask": mask} for (_, given), mask in pairs)
        return Inputs(calls[0][0], arguments)

    def logits(self, tailoring: Tailoring, hidden: Tensor) -> Tensor:
        """Norm and project hidden states: (M, H) -> (M, V), in the family's dtype."""
        model = self._model(tailoring)
        self._set_layers(model, [_Replay(hidden[None], tuples=bool(self._tuples))])
        positions = torch.zeros(1, len(hidden), dtype=torch.int64, device=self._device)
        mask = torch.zeros(1, 1, 1, 1, dtype=hidden.dtype, device=self._device)  # not used
        out = model(
            inputs_embeds=hidden[None],
            position_ids=positions,
            attention_mask=dict.fromkeys(self._mask_kinds, mask) if self._mask_kinds else mask,
            use_cache=False,
        )
        logits: Tensor = out.logits[0]
        return logits

    def outer_state(self, tailoring: Tailoring) -> Mapping[str, Tensor]:
        """The tensors of embedding, norm and head by their full names, on the device."""
        state: Mapping[str, Tensor] = self._model(tailoring).state_dict()
        return state

    def _model(self, tailoring: Tailoring) -> Any:
        """The model without layers that has the tailoring's outer parts; made once."""
        parts = tailoring.outer_parts
        key = tuple(parts.values())
        if key not in self._models:
            model = copy.deepcopy(self._bare)
            for part, spec in parts.items():
                state = outer_weights(self._family, part, spec, self._family.dtype)
                model.load_state_dict(state, strict=False, assign=True)
            model.tie_weights()
            left = [name for name, tensor in model.named_parameters() if tensor.is_meta]
            assert not left, f"no weights for {left}"
            self._models[key] = model.to(self._device)
        return self._models[key]

    def _set_layers(self, model: Any, layers: Sequence[nn.Module]) -> None:
        setattr(model.get_submodule(self._parent), self._name, nn.ModuleList(layers))

    def _returns_tuples(self, model: Any) -> bool:
        """Find out whether the model's layers return tuples or tensors: try both."""
        tokens = torch.zeros(1, 2, dtype=torch.int64, device=self._device)
        positions = torch.arange(2, device=self._device)[None]
        reasons: list[object] = []
        for tuples in (False, True):
            try:
                calls = self._calls(model, tokens, positions, tuples=tuples)
            except (TypeError, AttributeError, IndexError, ValueError, RuntimeError) as error:
                reasons.append(error)
                continue
            if len(calls) == len(self.templates) and all(h is calls[0][0] for h, _ in calls):
                return tuples
            reasons.append("it does more between its layers than hand their result on")
        raise FamilyError(
            f"{type(model).__name__} calls its layers in a way that can't be shared "
            f"({reasons[0]}); this architecture is not supported"
        )

    def _calls(
        self, model: Any, tokens: Tensor, positions: Tensor | None, *, tuples: bool
    ) -> list[_Call]:
        """Each layer's arguments."""
        calls: list[_Call] = []
        lasts = [*(False for _ in self.templates[1:]), True]
        taps = [_Tap(calls, self._names, last=last, tuples=tuples) for last in lasts]
        self._set_layers(model, taps)
        with contextlib.suppress(_Stop):
            model.base_model(input_ids=tokens, position_ids=positions, use_cache=False)
        return calls

    def _masks(self, model: Any, batch: Batch, positions: Tensor) -> list[Tensor]:
        """The additive mask of each original layer, (B, 1, T, T) in the family's dtype.

        A layer's pattern (full, sliding, chunked) is read off the mask that the model makes for one
        plain sequence, and looked up by the tokens' positions.
        """
        visible = batch.visible(self._device)  # (B, T, T)
        n_tokens = visible.shape[-1]
        eye = torch.eye(n_tokens, dtype=torch.bool, device=self._device)
        rows, columns = positions[:, :, None], positions[:, None, :]
        room = n_tokens  # on a GPU rows begin at multiples of 8, else each layer copies the mask
        room += -n_tokens % _ALIGNED if self._device.type == "cuda" else 0
        dtype = self._family.dtype
        made: dict[int, Tensor] = {}
        masks = []
        for pattern in self._patterns(model, int(batch.positions.max()) + 1):
            if id(pattern) not in made:
                seen = (visible & pattern[rows, columns]) | eye
                mask = torch.zeros((*seen.shape[:2], room), dtype=dtype, device=self._device)
                mask = mask[..., :n_tokens].masked_fill_(~seen, torch.finfo(dtype).min)
                made[id(pattern)] = mask[:, None]
            masks.append(made[id(pattern)])
        return masks

    def _patterns(self, model: Any, length: int) -> tuple[Tensor, ...]:
        """For each original layer, its mask in a plain sequence: bool (L, L), [query, key]."""
        room = 1 << max(6, (length - 1).bit_length())  # a few sizes serve all batches
        room = max(length, min(room, max_positions(self._family.config) or room))
        if room in self._allowed:
            return self._allowed[room]
        chosen = model.config._attn_implementation
        model.set_attn_implementation("eager")  # the one that always makes its masks
        tokens = torch.zeros(1, room, dtype=torch.int64, device=self._device)
        calls = self._calls(model, tokens, None, tuples=bool(self._tuples))
        model.set_attn_implementation(chosen)
        patterns: list[Tensor] = []
        for _, arguments in calls:
            mask = arguments.get("attention_mask")  # (1, 1, L, L)
            if mask is None:
                pattern = torch.ones(room, room, dtype=torch.bool, device=self._device).tril()
            else:
                plain = mask[0, 0]
                pattern = plain if plain.dtype == torch.bool else plain >= 0
            equals = (other for other in patterns if torch.equal(other, pattern))
            patterns.append(next(equals, pattern))
        self._allowed[room] = tuple(patterns)
        return self._allowed[room]
