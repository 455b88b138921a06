"""The YAML documents of a recipe for ``mergekit-multi``.

mergekit has one method per document, so merged layers are made in documents of their own, one per
method, and the last document stacks these and the members' own layers. mergekit makes the embedding
as the first slice says, norm and head as the last: slices without layers stand there. A document
with a name becomes an intermediate model.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptailor.core.tailoring import BASE, Source
from gptailor.export.mergekit.forms import Form
from gptailor.export.mergekit.member_files import MemberFiles

__all__ = ["Documents", "Slice"]

Slice = dict[str, Any]

_ZEROS = "zeros"


@dataclass(slots=True)
class Documents:
    """The documents of one recipe; intermediate models grow with the layers asked for."""

    files: Mapping[str, MemberFiles]  # by member
    prefix: str  # of the names of intermediate models
    dtype: str  # of the result, in mergekit's words
    head: str  # the name of the head's tensor
    _merges: dict[str, list[Slice]] = field(default_factory=dict, init=False)  # by method
    _outer: list[dict[str, Any]] = field(default_factory=list, init=False)
    # suffix of the name -> the member that is copied, and its layers
    _copies: dict[str, tuple[str, list[int]]] = field(default_factory=dict, init=False)

    def taken(self, source: Source) -> Slice:
        """A slice of one source; without a layer, of the member's outer parts."""
        return {"sources": [_input(self.files[source.member].reference, source.layer)]}

    def merged(self, form: Form) -> Slice:
        """A slice of the intermediate model in which a layer is merged."""
        slices = self._merges.setdefault(form.method, [])
        slices.append(self._merge(form))
        return {"sources": [_input(self._name(form.method), len(slices) - 1)]}

    def merged_part(self, part: str, form: Form) -> Slice:
        """A slice without layers of the intermediate model in which an outer part is merged."""
        return self._outer_model(part, form.method, self._merge(form))

    def joined(self, norm: Slice, head: Slice) -> Slice:
        """A slice without layers that has the norm of one and the head of another."""
        inputs = []
        for slice_, of_head in ((norm, 0.0), (head, 1.0)):
            weight = [{"filter": self.head, "value": of_head}, {"value": 1.0 - of_head}]
            inputs.append(slice_["sources"][0] | {"parameters": {"weight": weight}})
        made = {"parameters": {"normalize": False}, "sources": inputs}
        return self._outer_model("norm-and-head", "linear", made)

    def written(self, embedding: Slice, layers: Sequence[Slice], last: Slice) -> list[Any]:
        """Every document; the last is the result's."""
        made = []
        for end, (member, copied) in self._copies.items():
            slices = [self.taken(Source(member, layer)) for layer in (None, *copied, None)]
            scale = {"parameters": {"scale": 0.0}} if end == _ZEROS else {}
            made.append(self._document(end, "passthrough", slices) | scale)
        for method, slices in self._merges.items():
            # without layers, and with no input but a base: mergekit mistakes ends of several inputs
            outer = {"base_model": self._base, "sources": [_input(self._base, None)]}
            made.append(self._document(method, method, [outer, *slices, outer]))
        final = self._document(None, "passthrough", [embedding, *_runs(layers), last])
        return [*made, *self._outer, final]

    @property
    def _base(self) -> str:
        return self.files[BASE].reference

    def _name(self, end: str) -> str:
        return f"{self.prefix}-{end}"

    def _outer_model(self, end: str, method: str, made: Slice) -> Slice:
        self._outer.append(self._document(end, method, [made]))
        return {"sources": [_input(self._name(end), None)]}

    def _document(self, end: str | None, method: str, slices: list[Slice]) -> dict[str, Any]:
        named = {} if end is None else {"name": self._name(end)}
        return {
            **named,
            "merge_method": method,
            "base_model": self._base,  # whose config and tokenizer are copied
            "dtype": self.dtype if method == "passthrough" else "float32",
            "out_dtype": self.dtype,
            "slices": slices,
        }

    def _merge(self, form: Form) -> Slice:
        used: Counter[str] = Counter()
        if form.base is None:
            base = self._copy(_ZEROS, Source(BASE, form.inputs[0][0].layer))
        else:
            base = self._input(form.base, used)
        inputs = [
            self._input(source, used) | {"parameters": {"weight": weight}}
            for source, weight in form.inputs
        ]
        return {
            "base_model": base["model"],
            "parameters": dict(form.parameters),
            "sources": [base, *inputs],
        }

    def _input(self, source: Source, used: Counter[str]) -> Slice:
        """One input of a merge; a model can stand only once in a slice, so the next is a copy."""
        files, n_used = self.files[source.member], used[source.member]
        used[source.member] += 1
        if n_used == 0 and not files.rounded:
            return _input(files.reference, source.layer)
        return self._copy(f"{source.member}-{n_used}", source)

    def _copy(self, end: str, source: Source) -> Slice:
        """An input from a copy of a member, which gets the layer if it has not got it."""
        _, layers = self._copies.setdefault(end, (source.member, []))
        if source.layer is None:
            return _input(self._name(end), None)
        if source.layer not in layers:
            layers.append(source.layer)
        return _input(self._name(end), layers.index(source.layer))


def _input(model: str, layer: int | None) -> dict[str, Any]:
    return {"model": model, "layer_range": [0, 0] if layer is None else [layer, layer + 1]}


def _runs(slices: Sequence[Slice]) -> list[Slice]:
    """Join slices of layers that follow each other in one model."""
    joined: list[dict[str, Any]] = []
    for slice_ in slices:
        (source,) = slice_["sources"]
        low, high = source["layer_range"]
        last = joined[-1] if joined else None
        if last and last["model"] == source["model"] and last["layer_range"][1] == low:
            joined[-1] = last | {"layer_range": [last["layer_range"][0], high]}
        else:
            joined.append(source)
    return [{"sources": [source]} for source in joined]
