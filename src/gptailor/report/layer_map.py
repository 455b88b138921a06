"""The picture of the model: where every layer of the result comes from.

Above stand the members, layer by layer, with what is used filled in; below stands the result, and
a thread leads from each of its layers to the place it was taken from. So a cut layer, one that
moved and one that is used twice all show. Knows nothing of scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.report.svg import picture, tag, text
from gptailor.report.words import count, listed, spans

__all__ = ["LayerPicture", "LayerRow", "layer_picture", "spec_title"]

_WIDTH = 1040.0
_ROW = 20.0
_TOP = 34.0  # two lines above the grid: part names, layer numbers
_GAP = 8.0  # between layers and what stands outside them
_THREADS = 46.0
_RESULT = 24.0


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer of the result, or a part outside the layers, as a line of a table."""

    place: str
    kind: str
    sources: str
    method: str
    params: str
    base: str


@dataclass(frozen=True, slots=True)
class LayerPicture:
    """The picture and what goes with it.

    Args:
        svg: The drawing.
        members: The family, in order: the n-th has the style class ``m<n>``.
        methods: Letter in the drawing to the merge method it stands for.
        summary: What was done, in sentences.
        rows: The same as a table.
        has_grounds: Whether a merge takes differences from a layer that is not a source itself.
    """

    svg: Markup
    members: tuple[str, ...]
    methods: tuple[tuple[str, str], ...]
    summary: tuple[str, ...]
    rows: tuple[LayerRow, ...]
    has_grounds: bool


def layer_picture(tailoring: Tailoring, members: Sequence[str], n_layers: int) -> LayerPicture:
    """Draw a tailoring.

    Args:
        tailoring: What to draw.
        members: The family's members, the base first.
        n_layers: Layers of each member.
    """
    specs = [*tailoring.layers, *tailoring.outer_parts.values()]
    used = sorted({spec.method for spec in specs if spec.method is not None})
    methods = tuple((chr(ord("a") + index), method) for index, method in enumerate(used))
    plan = _Plan(tailoring, tuple(members), n_layers, {method: key for key, method in methods})
    places = [(f"layer {index}", spec) for index, spec in enumerate(tailoring.layers)]
    rows = tuple(_row(place, spec) for place, spec in [*places, *tailoring.outer_parts.items()])
    summary = _summary(tailoring, n_layers)
    return LayerPicture(
        plan.draw(),
        tuple(members),
        methods,
        summary,
        rows,
        bool(set(plan.grounds) - set(plan.uses)),
    )


def _row(place: str, spec: LayerSpec) -> LayerRow:
    merged = spec.method is not None
    params = ", ".join(f"{key} {_told(value)}" for key, value in spec.params if key != "seed")
    return LayerRow(
        place=place,
        kind="merged" if merged else "base" if spec.sources[0].member == BASE else "taken",
        sources=", ".join(str(source) for source in spec.sources),
        method=spec.method or "",
        params=params,
        base="" if spec.base is None else str(spec.base),
    )


def _told(value: object) -> str:
    if isinstance(value, tuple):
        return " / ".join(f"{item:.2g}" for item in value)
    return f"{value:.3g}"


def _summary(tailoring: Tailoring, n_layers: int) -> tuple[str, ...]:
    used = {layer for _, layer in (*_uses(tailoring, n_layers), *_grounds(tailoring, n_layers))}
    cut = [layer for layer in range(n_layers) if layer not in used]
    told = [
        f"Of {count(n_layers, 'layer')}, {len(cut)} "
        + (f"{'is' if len(cut) == 1 else 'are'} not used: {spans(cut)}." if cut else "are unused.")
    ]
    kinds = [_row("", spec).kind for spec in tailoring.layers]
    names = (
        ("base", "taken from the base"),
        ("taken", "taken from one variant"),
        ("merged", "merged"),
    )
    parts = [f"{kinds.count(kind)} {name}" for kind, name in names if kind in kinds]
    told.append(f"The {count(len(kinds), 'layer')} of the result: {listed(parts)}.")
    firsts = [spec.sources[0].layer or 0 for spec in tailoring.layers]
    if firsts != sorted(firsts):
        told.append("Some layers stand in another order than in the base.")
    if len(set(firsts)) < len(firsts):
        again = sorted({layer for layer in firsts if firsts.count(layer) > 1})
        told.append(f"The result uses these positions more than once: {spans(again)}.")
    return tuple(told)


class _Plan:
    """Where everything stands in the drawing of one tailoring."""

    def __init__(
        self, tailoring: Tailoring, members: tuple[str, ...], n_layers: int, letters: dict[str, str]
    ) -> None:
        self.tailoring, self.members, self.n_layers = tailoring, members, n_layers
        self.letters = letters
        n_columns = max(n_layers, len(tailoring.layers)) + 3  # embedding, norm, head
        longest = max(len(_short(name)) for name in (*members, "result"))
        self.left = 20.0 + 7.2 * longest
        self.cell = min((_WIDTH - self.left - 3 * _GAP) / n_columns, 44.0)
        self.width = self.left + n_columns * self.cell + 3 * _GAP
        self.foot = _TOP + _ROW * len(members)
        self.uses = _uses(tailoring, n_layers)
        self.grounds = _grounds(tailoring, n_layers)

    def draw(self) -> Markup:
        """The whole picture."""
        about = (
            f"One column for each of {count(self.n_layers, 'layer')} of {listed(self.members)}, "
            f"and below them the {count(len(self.tailoring.layers), 'layer')} of the result. "
            + " ".join(_summary(self.tailoring, self.n_layers))
        )
        drawn = [*self._names(), *self._grid(), *self._threads(), *self._result()]
        drawn += (strengths := self._strengths())
        height = self.foot + _THREADS + _RESULT + (38 if strengths else 22)
        return picture(self.width, height, drawn, title="Where every layer comes from", about=about)

    def x(self, column: int, n_layers: int) -> float:
        """Left edge: column -1 is the embedding, the two after the layers are norm and head."""
        gap = 0.0 if column < 0 else _GAP if column < n_layers else 2 * _GAP
        return self.left + (column + 1) * self.cell + gap

    def _names(self) -> list[Markup]:
        drawn = []
        for row, member in enumerate(self.members):
            y = _TOP + row * _ROW + _ROW / 2 + 4
            drawn.append(text(self.left - 10, y, _short(member), class_="tick end"))
        below = self.foot + _THREADS + _RESULT
        drawn.append(text(self.left - 10, below - 8, "result", class_="tick end strong"))
        drawn += self._layer_numbers(_TOP - 6, self.n_layers)
        drawn += self._layer_numbers(below + 14, len(self.tailoring.layers))
        right = self.x(self.n_layers + 1, self.n_layers) + self.cell
        drawn.append(text(self.left, _TOP - 22, "embedding", class_="tick small"))
        drawn.append(text(right, _TOP - 22, "norm, head", class_="tick small end"))
        middle = (self.x(0, self.n_layers) + self.x(self.n_layers, self.n_layers)) / 2
        drawn.append(text(middle, _TOP - 22, "layers", class_="tick small mid"))
        return drawn

    def _layer_numbers(self, y: float, n_layers: int) -> list[Markup]:
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if s * self.cell >= 17)
        return [
            text(self.x(layer, n_layers) + self.cell / 2, y, str(layer), class_="tick mid small")
            for layer in range(0, n_layers, step)
        ]

    def _grid(self) -> list[Markup]:
        """The members: what is used filled in, what is cut struck out."""
        kept = {layer for _, layer in (*self.uses, *self.grounds)}
        drawn = []
        for layer in range(-1, self.n_layers + 2):
            x = self.x(layer, self.n_layers)
            for row, member in enumerate(self.members):
                kind = "cell" if layer in kept else "cell cut"
                if (member, layer) in self.uses:
                    kind = f"cell m{row % 9}"
                elif (member, layer) in self.grounds:
                    kind = f"cell ground m{row % 9}"
                y = _TOP + row * _ROW
                drawn.append(self._box((x, y), _ROW, kind, self._cell_title(member, layer)))
            if layer not in kept:
                drawn.append(self._strike(x))
        return drawn

    def _strike(self, x: float) -> Markup:
        return tag(
            "path",
            d=f"M{x + 2:.1f} {self.foot - 2:.1f}L{x + self.cell - 2:.1f} {_TOP + 2:.1f}",
            class_="strike",
        )

    def _box(self, corner: tuple[float, float], height: float, kind: str, title: str) -> Markup:
        gap = 1.0 if self.cell < 16 else 2.0
        return tag(
            "rect",
            tag("title", title),
            x=round(corner[0] + gap / 2, 1),
            y=round(corner[1] + gap / 2, 1),
            width=round(self.cell - gap, 1),
            height=round(height - gap, 1),
            rx=2,
            class_=kind,
        )

    def _cell_title(self, member: str, layer: int) -> str:
        parts = {-1: "embedding", self.n_layers: "norm", self.n_layers + 1: "head"}
        what = f"{member}: {parts[layer]}" if layer in parts else f"{member}:{layer}"
        told = []
        if places := self.uses.get((member, layer)):
            told.append(f"is used in {listed(places)}")
        if places := self.grounds.get((member, layer)):
            told.append(f"is what the differences in {listed(places)} are taken from")
        return f"{what} {listed(told) or 'is not used'}"

    def _threads(self) -> list[Markup]:
        """From each layer of the result up to where it was taken from."""
        top, stop = self.foot + 2, self.foot + _THREADS - 2
        middle = (top + stop) / 2
        n_result = len(self.tailoring.layers)
        drawn = []
        for column, spec in enumerate(self.tailoring.layers):
            end = self.x(column, n_result) + self.cell / 2
            for layer in dict.fromkeys(source.layer or 0 for source in spec.sources):
                start = self.x(layer, self.n_layers) + self.cell / 2
                curve = (
                    f"M{start:.1f} {top}C{start:.1f} {middle} {end:.1f} {middle} {end:.1f} {stop}"
                )
                drawn.append(tag("path", d=curve, class_="thread"))
        return drawn

    def _result(self) -> list[Markup]:
        """The layers of the result: a stripe for each source, a letter for the method."""
        n_result = len(self.tailoring.layers)
        columns = {"embedding": -1, "norm": n_result, "head": n_result + 1}
        placed = [(f"layer {i}", i, spec) for i, spec in enumerate(self.tailoring.layers)]
        placed += [(part, columns[part], spec) for part, spec in self.tailoring.outer_parts.items()]
        drawn = []
        for place, column, spec in placed:
            x, y = self.x(column, n_result), self.foot + _THREADS
            drawn += self._stripes(x, y, spec, f"{place} of the result: {spec_title(spec)}")
        return drawn

    def _strengths(self) -> list[Markup]:
        """How strongly each layer is merged, where there is room to say it."""
        if self.cell < 20:
            return []
        y = self.foot + _THREADS + _RESULT + 30
        n_result = len(self.tailoring.layers)
        drawn = []
        for column, spec in enumerate(self.tailoring.layers):
            values = [value for _, value in spec.params]
            strength = spec.scale if spec.scale is not None or len(values) != 1 else values[0]
            if isinstance(strength, float):
                middle = self.x(column, n_result) + self.cell / 2
                told = f"{strength:.2f}".removeprefix("0")
                drawn.append(text(middle, y, told, class_="tick mid small"))
        named = text(self.left - 10, y, "scale", class_="tick end small")
        return [named, *drawn] if drawn else []

    def _stripes(self, x: float, y: float, spec: LayerSpec, title: str) -> list[Markup]:
        gap = 1.0 if self.cell < 16 else 2.0
        width = (self.cell - gap) / len(spec.sources)
        drawn = [
            tag(
                "rect",
                tag("title", title),
                x=round(x + gap / 2 + index * width, 2),
                y=y,
                width=round(width, 2),
                height=_RESULT,
                class_=f"cell m{self._row_of(source) % 9}",
            )
            for index, source in enumerate(spec.sources)
        ]
        if spec.method is not None and self.cell >= 9:
            letter = self.letters[spec.method]
            middle = x + self.cell / 2
            drawn.append(text(middle, y + _RESULT / 2 + 4, letter, class_="letter mid"))
        return drawn

    def _row_of(self, source: Source) -> int:
        return self.members.index(source.member)


def spec_title(spec: LayerSpec) -> str:
    """A layer in words: its sources, and the method with its parameters."""
    row = _row("", spec)
    if spec.method is None:
        return row.sources
    base = f", on {row.base}" if row.base else ""
    params = f" ({row.params})" if row.params else ""
    return f"{spec.method}{params} of {row.sources}{base}"


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"


def _uses(tailoring: Tailoring, n_layers: int) -> dict[tuple[str, int], list[str]]:
    """Member and column to the places of the result that use it as a source."""
    uses: dict[tuple[str, int], list[str]] = {}
    for place, column, spec in _placed(tailoring, n_layers):
        for source in spec.sources:
            at = column if source.layer is None else source.layer
            uses.setdefault((source.member, at), []).append(place)
    return uses


def _grounds(tailoring: Tailoring, n_layers: int) -> dict[tuple[str, int], list[str]]:
    """Member and column to the places of the result whose differences are taken from it."""
    grounds: dict[tuple[str, int], list[str]] = {}
    for place, column, spec in _placed(tailoring, n_layers):
        if spec.base is not None:
            at = column if spec.base.layer is None else spec.base.layer
            grounds.setdefault((spec.base.member, at), []).append(place)
    return grounds


def _placed(tailoring: Tailoring, n_layers: int) -> list[tuple[str, int, LayerSpec]]:
    """Place in words, column of a part, and spec; a layer's columns are in its sources."""
    columns = {"embedding": -1, "norm": n_layers, "head": n_layers + 1}
    placed = [(f"layer {i} of the result", 0, spec) for i, spec in enumerate(tailoring.layers)]
    return placed + [(f"the {part}", columns[part], s) for part, s in tailoring.outer_parts.items()]
