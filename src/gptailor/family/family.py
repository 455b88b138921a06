"""`Family`, a base and its variants in memory; `OpenedMember`, one of them before it is compared.

Layers and outer parts are returned without copying; no tensor is ever changed.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.errors import FamilyError, TailoringError, unknown
from gptailor.family.architecture import (
    Kind,
    kind_difference,
    layer_kinds,
    norm_offset,
    tailored_config,
)
from gptailor.family.empty_model import skeleton_of
from gptailor.family.fitted import FittedWeights, digest_of
from gptailor.family.layout import OUTER_PARTS, Layout
from gptailor.family.memory_map import let_go, trim
from gptailor.family.multimodal import MultimodalWrapper
from gptailor.merge import merge_layer

__all__ = ["Family", "OpenedMember", "layer_weights", "outer_weights"]


@dataclass(frozen=True, eq=False)
class OpenedMember:
    """One member's weights, config and tokenizer, as read."""

    location: str  # its folder or file on this machine, for messages
    path: str  # as in the config, with a remark where it is an adapter
    config: Any  # transformers is untyped here
    state: Mapping[str, Tensor]  # a tied head is absent
    tied: bool  # whether the head is the embedding
    tokenizer: Any = None
    generation_config: Any = None
    licence: str | None = None  # as in its model card or package
    notes: tuple[str, ...] = ()
    stored: str | None = None  # how, if not as plain floats: a sentence without its subject
    multimodal_wrapper: MultimodalWrapper | None = None
    adapter_tokenizer: Any = None  # beside an adapter; `tokenizer` says which row is which token
    named: str = "the base"  # whose tokenizer it has, where this is the family's base


@dataclass(frozen=True, eq=False, repr=False)
class Family:
    """The members' weights, config and tokenizer; made by `load_family`.

    Args:
        config: The base's transformers config, a private copy.
        layout: Which names belong to which layer or outer part.
        dtype: Of every float tensor.
        states: Member to names and tensors; equal tensors are one tensor.
        paths: Member to its path, as in the config, with a remark for adapters.
        notes: Sentences for the user.
        generation_config: That of the member `tokenizer_from`, or None.
        licence: The base's, from its model card or package, or None.
        own_tokenizer: The tokenizer of the member `tokenizer_from`, or None where it has none.
        multimodal_wrapper: The rest of the base's checkpoint, such as a vision tower, or None.
        mapped: Whether the tensors are left in files, so that their memory can be released.
        fitted: Fitted tensors that repaired layers have instead of members'.
        tokenizer_from: The member whose tokenizer, chat template and generation config are used.
    """

    config: Any  # transformers is untyped here
    layout: Layout
    dtype: torch.dtype
    states: Mapping[str, Mapping[str, Tensor]]
    paths: Mapping[str, str]
    notes: tuple[str, ...] = ()
    generation_config: Any = None
    licence: str | None = None
    own_tokenizer: Any = None
    multimodal_wrapper: MultimodalWrapper | None = None
    mapped: bool = False
    fitted: FittedWeights = field(default_factory=FittedWeights)
    tokenizer_from: str = BASE

    @property
    def tokenizer(self) -> Any:  # transformers is untyped here
        """The tokenizer of the base, or of `tokenizer_from`; it holds the chat template.

        Raises:
            FamilyError: The base came without one.
        """
        if self.own_tokenizer is None:
            raise FamilyError(
                f"the base {self.paths[BASE]} has no tokenizer; save one into its folder "
                "with tokenizer.save_pretrained"
            )
        return self.own_tokenizer

    @property
    def members(self) -> tuple[str, ...]:
        """``base`` and the variants, in the order of the config."""
        return tuple(self.states)

    @property
    def n_layers(self) -> int:
        """How many layers each member has."""
        return self.layout.n_layers

    @property
    def tied(self) -> bool:
        """Whether the members use the embedding as the head."""
        return self.layout.tied

    @cached_property
    def nbytes(self) -> int:
        """Bytes of memory held, each shared tensor counted once."""
        around = [self.multimodal_wrapper.state] if self.multimodal_wrapper else []
        states = (*self.states.values(), *around)
        storages = [tensor.untyped_storage() for state in states for tensor in state.values()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    @cached_property
    def kinds(self) -> tuple[tuple[Kind, Hashable], ...]:
        """The kind of layer at each position; layers of different kinds are never merged."""
        configured = layer_kinds(self.config)
        shapes = [
            tuple(sorted((name, tuple(tensor.shape)) for name, tensor in layer.items()))
            for layer in self._layers[BASE]
        ]
        return tuple(zip(configured, shapes, strict=True))

    @cached_property
    def parameters(self) -> int:
        """Parameters of the base; a tied head counts once."""
        return sum(tensor.numel() for tensor in self.states[BASE].values())

    @cached_property
    def layer_parameters(self) -> tuple[int, ...]:
        """Parameters of each layer of the base."""
        return tuple(
            sum(tensor.numel() for tensor in layer.values()) for layer in self._layers[BASE]
        )

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """Member to 16 hex digits over every byte of its weights, in this dtype."""
        known: dict[int, bytes] = {}  # a shared tensor is read once
        digests = {}
        for member, state in self.states.items():
            digests[member] = digest_of(state, known)
            if self.mapped:
                let_go(state.values())
        return digests

    def release_pages(self) -> None:
        """Release the memory of the pages that were read of a family that is left in files."""
        if self.mapped:
            for state in self.states.values():
                let_go(state.values())
            trim()

    @cached_property
    def _layers(self) -> Mapping[str, tuple[Mapping[str, Tensor], ...]]:
        return {member: self.layout.layers_of(state) for member, state in self.states.items()}

    @cached_property
    def _parts(self) -> Mapping[str, Mapping[str, Mapping[str, Tensor]]]:
        return {member: self.layout.parts_of(state) for member, state in self.states.items()}

    def layer(self, source: Source) -> Mapping[str, Tensor]:
        """One member's layer, by the names inside it such as ``self_attn.q_proj.weight``.

        Raises:
            TailoringError: The member or the layer does not exist.
        """
        if source.member not in self.states:
            raise TailoringError(unknown("member", source.member, self.members))
        if source.layer is None or source.layer >= self.n_layers:
            raise TailoringError(
                f"{source} is not a layer; layers go from 0 to {self.n_layers - 1}"
            )
        return self._layers[source.member][source.layer]

    def outer_part(self, part: str, member: str) -> Mapping[str, Tensor]:
        """One member's tensors outside its layers, by full names.

        Args:
            part: ``embedding``, ``norm`` or ``head``; a tied head is empty.
            member: The member's name.

        Raises:
            TailoringError: The part or the member does not exist.
        """
        if part not in OUTER_PARTS:
            raise TailoringError(unknown("part", part, OUTER_PARTS))
        if member not in self.states:
            raise TailoringError(unknown("member", member, self.members))
        return self._parts[member][part]

    def skeleton(self) -> PreTrainedModel:
        """A fresh model of the base's config without weights: parameters are on meta."""
        return skeleton_of(self.config, self.dtype)

    def check(self, tailoring: Tailoring) -> None:
        """Check that a tailoring can be made of this family.

        Raises:
            TailoringError: A member or layer does not exist, layers of different kinds are merged,
                or the architecture's config can't express this order of layers.
        """
        tailoring.check(self.members, self.n_layers, tied=self.tied)
        problems = []
        for index, spec in enumerate(tailoring.layers):
            first, *others = [
                self.kinds[one.layer] for one in spec.all_sources if one.layer is not None
            ]
            for other in [kind for kind in others if kind != first][:1]:
                found = kind_difference(first[0], other[0])
                tensors = "their tensors have other names or shapes"
                unlike = f"{found[0]}: {found[1]} and {found[2]}" if found else tensors
                problems.append(f"layers[{index}]: {spec} merges layers of unlike kind ({unlike})")
        layers = self._layers[BASE]
        problems += self.fitted.problems(tailoring, [layers[s.position] for s in tailoring.layers])
        problems = problems or self._fitted_on_others(tailoring)
        if problems:
            raise TailoringError(problems)
        if len(set(self.kinds)) > 1:
            tailored_config(self.config, [spec.position for spec in tailoring.layers])

    def fitted_on(self, calibration: str) -> dict[str, str]:
        """What is fitted to this family's streams of calibration rows is fitted on, by digests."""
        members = {f"member {name}": digest for name, digest in self.digests.items()}
        return {"calibration": calibration, "dtype": str(self.dtype), **members}

    def _fitted_on_others(self, tailoring: Tailoring) -> list[str]:
        """Which layers' fitted tensors were made for other weights of a member, a sentence each.

        A fit looks at the streams of the model, so any of its members counts.
        """
        problems = []
        specs = (*tailoring.layers, *tailoring.outer_parts.values())
        used = dict.fromkeys(name for spec in specs for name in spec.members)
        for index, spec in enumerate(tailoring.layers):
            if spec.fitted is None:
                continue
            origin = self.fitted.origin(spec.fitted)
            if origin.get("dtype") != str(self.dtype):
                continue  # digests are of bytes
            for name in used:
                if origin.get(f"member {name}") not in (None, self.digests[name]):
                    problems.append(
                        f"layers[{index}]: its fitted weights {spec.fitted} were fitted with other "
                        f"weights of {name!r} than those of {self.paths[name]}; name the "
                        "checkpoint that they were fitted with"
                    )
        return problems

    def __repr__(self) -> str:
        return (
            f"Family({', '.join(self.members)}: {self.n_layers} layers, "
            f"{self.parameters:,} parameters, {self.nbytes / 2**20:,.0f} MiB)"
        )


def layer_weights(
    family: Family,
    spec: LayerSpec,
    dtype: torch.dtype,
    bring: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
) -> Mapping[str, Tensor]:
    """The tensors of one layer, by the names inside it; merged in float32, cast once to `dtype`.

    A repair changes the merged tensors in `dtype`. `bring` moves a member's tensors to the device
    where they are merged.
    """
    bring = bring or (lambda tensors: tensors)
    sources = [bring(family.layer(source)) for source in spec.sources]
    base = None if spec.base is None else bring(family.layer(spec.base))
    merged = merge_layer(spec, sources, base, dtype)
    if not spec.repaired:
        return merged
    return family.fitted.repaired(spec, merged, norm_offset=norm_offset(family.config))


def outer_weights(
    family: Family, part: str, spec: LayerSpec, dtype: torch.dtype
) -> Mapping[str, Tensor]:
    """The tensors of ``embedding``, ``norm`` or ``head``, by their full names."""
    sources = [family.outer_part(part, source.member) for source in spec.sources]
    base = None if spec.base is None else family.outer_part(part, spec.base.member)
    return merge_layer(spec, sources, base, dtype)
