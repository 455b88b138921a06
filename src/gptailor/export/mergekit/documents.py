"""The documents of a recipe for ``mergekit-multi``, while they are written.

mergekit has one method a document, so merged layers are made in documents of their own, one a
method, and the last document stacks them and the taken ones. mergekit makes the embedding as the
first slice says, norm and head as the last: slices of no layers stand there. A document with a name
becomes an intermediate model. Knows nothing of tensors.
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


@dataclass(slots=True)
class Documents:
    """Everything that a recipe says; intermediate models grow by the layers that are asked for.

    Args:
        files: Where each member lies.
        prefix: What the names of intermediate models begin with.
        dtype: Of the result, in mergekit's words.
        head: The name of the head's tensor.
    """

    files: Mapping[str, MemberFiles]
    prefix: str
    dtype: str
    head: str
    _merges: dict[str, list[Slice]] = field(default_factory=dict, init=False)  # by method
    _parts: list[dict[str, Any]] = field(default_factory=list, init=False)
    _copies: dict[tuple[str, int], list[int]] = field(default_factory=dict, init=False)
    _zeros: list[int] | None = field(default=None, init=False)

    def taken(self, source: Source) -> Slice:
        """A slice of one source, as its files have it; with no layer, of what is outside them."""
        return {"sources": [_input(self.files[source.member].reference, source.layer)]}

    def merged(self, form: Form) -> Slice:
        """A slice of the intermediate model in which a merge is made."""
        slices = self._merges.setdefault(form.method, [])
        slices.append(self._merge(form))
        return {"sources": [_input(self._name(form.method), len(slices) - 1)]}

    def merged_part(self, part: str, form: Form) -> Slice:
        """A slice of no layers of the intermediate model in which a part's merge is made."""
        self._parts.append(self._document(part, form.method, [self._merge(form)]))
        return {"sources": [_input(self._name(part), None)]}

    def joined(self, norm: Slice, head: Slice) -> Slice:
        """A slice of no layers that has the norm of one and the head of another."""
        of_norm = [{"filter": self.head, "value": 0.0}, {"value": 1.0}]
        of_head = [{"filter": self.head, "value": 1.0}, {"value": 0.0}]
        zeros = self._zeros_at(None)
        inputs = [
            slice_["sources"][0] | {"parameters": {"weight": weight}}
            for slice_, weight in ((norm, of_norm), (head, of_head))
        ]
        made = {
            "base_model": zeros["model"],
            "parameters": {"normalize": False},
            "sources": [zeros, *inputs],
        }
        self._parts.append(self._document("norm-and-head", "task_arithmetic", [made]))
        return {"sources": [_input(self._name("norm-and-head"), None)]}

    def written(self, embedding: Slice, layers: Sequence[Slice], last: Slice) -> list[Any]:
        """Every document, the result's last."""
        made = [
            self._document(
                f"{member}-{copy}",
                "passthrough",
                [self.taken(Source(member, layer)) for layer in (None, *layers_, None)],
            )
            for (member, copy), layers_ in self._copies.items()
        ]
        if self._zeros is not None:
            slices = [self.taken(Source(BASE, layer)) for layer in (None, *self._zeros, None)]
            made.append(
                self._document("zeros", "passthrough", slices) | {"parameters": {"scale": 0.0}}
            )
        for method, slices in self._merges.items():
            # no layers, and no inputs but a base: mergekit mistakes ends with several inputs
            end = {"base_model": self._base, "sources": [_input(self._base, None)]}
            made.append(self._document(method, method, [end, *slices, end]))
        final = self._document(None, "passthrough", [embedding, *_runs(layers), last])
        return [*made, *self._parts, final]

    @property
    def _base(self) -> str:
        return self.files[BASE].reference

    def _name(self, end: str) -> str:
        return f"{self.prefix}-{end}"

    def _document(self, end: str | None, method: str, slices: list[Slice]) -> dict[str, Any]:
        named = {} if end is None else {"name": self._name(end)}
        return {
            **named,
            "merge_method": method,
            "base_model": self._base,  # whose config and tokenizer are taken
            "dtype": self.dtype if method == "passthrough" else "float32",
            "out_dtype": self.dtype,
            "slices": slices,
        }

    def _merge(self, form: Form) -> Slice:
        used: Counter[str] = Counter()
        first = form.inputs[0][0]
        base = self._zeros_at(first.layer) if form.base is None else self._input(form.base, used)
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
        """One input of a merge; a model that stands twice in one slice needs a copy."""
        copy = used[source.member]
        used[source.member] += 1
        files = self.files[source.member]
        if copy == 0 and not files.rounded:
            return _input(files.reference, source.layer)
        layers = self._copies.setdefault((source.member, copy), [])
        return _input(self._name(f"{source.member}-{copy}"), _place(layers, source.layer))

    def _zeros_at(self, layer: int | None) -> Slice:
        self._zeros = [] if self._zeros is None else self._zeros
        return _input(self._name("zeros"), _place(self._zeros, layer))


def _place(layers: list[int], layer: int | None) -> int | None:
    """Where a layer stands in an intermediate model, which grows by it if need be."""
    if layer is None:
        return None
    if layer not in layers:
        layers.append(layer)
    return layers.index(layer)


def _input(model: str, layer: int | None) -> dict[str, Any]:
    return {"model": model, "layer_range": [0, 0] if layer is None else [layer, layer + 1]}


def _runs(slices: Sequence[Slice]) -> list[Slice]:
    """Join slices of layers that follow each other in one model."""
    joined: list[dict[str, Any]] = []
    for slice_ in slices:
        (source,) = slice_["sources"]
        low, high = source["layer_range"]
        if joined and joined[-1]["model"] == source["model"]:
            before = joined[-1]["layer_range"]
            if before[1] == low:
                joined[-1] = joined[-1] | {"layer_range": [before[0], high]}
                continue
        joined.append(source)
    return [{"sources": [source]} for source in joined]
