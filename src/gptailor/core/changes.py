"""Changes of a tailoring by one layer: taken from one member, dropped, or a cut layer put back.

Scored beside the tailoring itself, they show what each of its layers is worth.
"""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from gptailor.core.repair import cuts_of, gaps_of, put_back
from gptailor.core.tailoring import LayerSpec, Source, Tailoring

__all__ = ["Change", "ChangeKind", "changes_of", "refitted_again"]

ChangeKind: TypeAlias = Literal["taken", "dropped", "put back", "fitted again"]


@dataclass(frozen=True, slots=True)
class Change:
    """A tailoring with one layer changed."""

    kind: ChangeKind
    position: int  # of the layer in the whole model
    member: str | None  # that the layer is taken from instead; None for the other kinds
    tailoring: Tailoring


def changes_of(
    result: Tailoring,
    members: Sequence[str],
    n_layers: int,
    own: Collection[str] = (),
    fitted: Tailoring | None = None,
) -> tuple[Change, ...]:
    """Every change of a tailoring by one layer, the first layers first.

    Each layer that stays is taken from each member whole, at its own position, and dropped; each
    layer that was cut is put back, made as the kept layer before it is (before the first kept
    layer: as that one). A layer that was fitted for a cut is also fitted again and not changed
    otherwise, which shows the effect of fitting alone. Repairs are those of `refitted_again`.

    Nothing is put back where layers are moved, used twice or merged from several positions, and
    nothing is fitted again where they are moved or used twice.

    Args:
        result: What is changed.
        members: Of the family.
        n_layers: Of each member.
        own: Digests of fitted tensors that are more than a refit, such as those of a merge over
            positions: layers that have them keep them, and nothing is put back behind them.
        fitted: A whole model of which the result has layers: those behind them are put back from
            it, see `put_back`.
    """
    positions = [spec.position for spec in result.layers]
    rising = all(low < high for low, high in itertools.pairwise(positions))
    found = [*_changes_of_kept(result, members, own)]
    if rising:
        found += _put_back(result, n_layers, own, fitted)
        found = [
            replace(one, tailoring=refitted_again(one.tailoring, result, n_layers, own))
            for one in found
        ]
    else:
        found = [one for one in found if one.kind != "fitted again"]
    found.sort(key=lambda change: change.position)  # stable: kinds stay in order
    return tuple(change for change in found if change.tailoring != result)


def refitted_again(
    changed: Tailoring, result: Tailoring, n_layers: int, own: Collection[str] = ()
) -> Tailoring:
    """Bring the refits of a changed tailoring in line with its cuts.

    Where neither a layer nor the cut behind it changed, it keeps its fitted weights, and so does a
    layer with fitted tensors of its own. Any other layer is marked to be refitted for the cut
    behind it, or has its own weights if there is none. A result without refits gets none, and gains
    stay as they are.
    """
    if all(spec.refit_to is None for spec in result.layers):
        return changed
    kept = dict(_with_ends(result, n_layers))
    layers = tuple(
        spec
        if kept.get(spec, -1) == end or spec.fitted in own
        else spec.with_repair(gain=spec.gain, refit_to=end)
        for spec, end in _with_ends(changed, n_layers)
    )
    return replace(changed, layers=layers)


def _with_ends(tailoring: Tailoring, n_layers: int) -> Iterator[tuple[LayerSpec, int | None]]:
    """The layers, each with the end of the cut behind it."""
    ends = {cut.before: cut.end for cut in gaps_of(tailoring, n_layers)}
    for index, spec in enumerate(tailoring.layers):
        yield spec, ends.get(index)


def _changes_of_kept(
    result: Tailoring, members: Sequence[str], own: Collection[str]
) -> Iterator[Change]:
    for index, spec in enumerate(result.layers):
        before, after = result.layers[:index], result.layers[index + 1 :]

        def put(*instead: LayerSpec, kind: ChangeKind, member: str | None = None) -> Change:
            layers = (*before, *instead, *after)  # noqa: B023  # called before they change
            return Change(kind, spec.position, member, replace(result, layers=layers))  # noqa: B023

        for member in members:
            taken = LayerSpec((Source(member, spec.position),))
            if taken != spec.with_repair() or spec.fitted in own:
                yield put(taken, kind="taken", member=member)
        behind = spec.refit_to is not None and spec.refit_to > spec.position + 1  # a cut
        if behind and spec.fitted not in own:
            yield put(spec.with_repair(), kind="fitted again")
        if len(result.layers) > 1:
            yield put(kind="dropped")


def _put_back(
    result: Tailoring, n_layers: int, own: Collection[str], fitted: Tailoring | None
) -> Iterator[Change]:
    for cut in cuts_of(result, n_layers):
        if cut.before is not None and result.layers[cut.before].fitted in own:
            continue
        model = result.layers[cut.before or 0].with_repair()
        split = 0 if cut.before is None else cut.before + 1
        for position in range(cut.start, cut.end):
            layer = put_back(model, position, fitted)
            layers = (*result.layers[:split], layer, *result.layers[split:])
            yield Change("put back", position, None, replace(result, layers=layers))
