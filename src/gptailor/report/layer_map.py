"""The picture of the model: where every layer of the result comes from.

At the top are the members, layer by layer, with what is used filled in; at the bottom is the
result, with a line from each of its layers to where it was taken from. So a layer that is cut,
moved or used twice is visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup

from gptailor.core.repair import repair_sentence
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.report.svg import path, picture, tag, text
from gptailor.report.words import count, listed, shortened, spans

__all__ = ["LayerPicture", "LayerRow", "layer_picture"]

_WIDTH = 1040.0
_ROW = 20.0
_TOP = 34.0  # two lines above the grid: outer parts, layer numbers
_GAP = 8.0  # between layers and outer parts
_THREADS = 46.0
_RESULT = 24.0


class LayerRow(NamedTuple):
    """One layer of the result, or an outer part, as a line of a table."""

    name: str
    kind: str
    sources: str
    method: str
    params: str
    base: str


@dataclass(frozen=True, slots=True)
class LayerPicture:
    """The picture and what goes with it."""

    svg: Markup
    methods: tuple[tuple[str, str], ...]  # letter in the drawing to the merge method it stands for
    summary: tuple[str, ...]  # what was done, in sentences
    rows: tuple[LayerRow, ...]  # the same as a table
    has_grounds: bool  # whether a merge takes differences from a layer that is not a source itself


def layer_picture(tailoring: Tailoring, members: Sequence[str], n_layers: int) -> LayerPicture:
    """Draw a tailoring of members, the base first, of `n_layers` each."""
    specs = [*tailoring.layers, *tailoring.outer_parts.values()]
    used = sorted({spec.method for spec in specs if spec.method is not None})
    methods = tuple((chr(ord("a") + index), method) for index, method in enumerate(used))
    drawing = _Drawing(tailoring, members, n_layers, {method: key for key, method in methods})
    named = [(f"layer {index}", spec) for index, spec in enumerate(tailoring.layers)]
    rows = tuple(_row(name, spec) for name, spec in [*named, *tailoring.outer_parts.items()])
    has_grounds = bool(set(drawing.grounds) - set(drawing.uses))
    summary = _summary(tailoring, n_layers)
    return LayerPicture(drawing.draw(summary), methods, summary, rows, has_grounds)


def _row(name: str, spec: LayerSpec) -> LayerRow:
    taken = "base" if spec.sources[0].member == BASE else "taken"
    return LayerRow(
        name=name,
        kind=taken if spec.method is None else "merged",
        sources=", ".join(map(str, spec.sources)),
        method=spec.method or "",
        params=", ".join(f"{key} {_format(value)}" for key, value in spec.params if key != "seed"),
        base="" if spec.base is None else str(spec.base),
    )


def _format(value: object) -> str:
    if isinstance(value, tuple):
        return " / ".join(f"{item:.2g}" for item in value)
    return f"{value:.3g}"


def _summary(tailoring: Tailoring, n_layers: int) -> tuple[str, ...]:
    uses, grounds = _users(tailoring, n_layers)
    used = {layer for _, layer in (*uses, *grounds)}
    cut = [layer for layer in range(n_layers) if layer not in used]
    which = f"{'is' if len(cut) == 1 else 'are'} not used: {spans(cut)}." if cut else "are unused."
    sentences = [f"Of {count(n_layers, 'layer')}, {len(cut)} {which}"]
    kinds = [_row("", spec).kind for spec in tailoring.layers]
    words = {"base": "taken from the base", "taken": "taken from one variant", "merged": "merged"}
    parts = [f"{kinds.count(kind)} {word}" for kind, word in words.items() if kind in kinds]
    sentences.append(f"The {count(len(kinds), 'layer')} of the result: {listed(parts)}.")
    firsts = [spec.sources[0].layer or 0 for spec in tailoring.layers]
    if firsts != sorted(firsts):
        sentences.append("Some layers are in another order than in the base.")
    if len(set(firsts)) < len(firsts):
        again = sorted({layer for layer in firsts if firsts.count(layer) > 1})
        sentences.append(f"The result uses these layers more than once: {spans(again)}.")
    if repaired := repair_sentence(tailoring):
        sentences.append(repaired)
    return tuple(sentences)


class _Drawing:
    """The drawing of one tailoring: its columns and rows in pixels."""

    def __init__(
        self, tailoring: Tailoring, members: Sequence[str], n_layers: int, letters: dict[str, str]
    ) -> None:
        self.tailoring, self.members, self.n_layers = tailoring, members, n_layers
        self.letters = letters
        n_columns = max(n_layers, len(tailoring.layers)) + 3  # embedding, norm, head
        self.names = [shortened(name, 20) for name in members]
        self.left = 20.0 + 7.2 * max(map(len, (*self.names, "result")))
        self.cell = min((_WIDTH - self.left - 3 * _GAP) / n_columns, 44.0)
        self.width = self.left + n_columns * self.cell + 3 * _GAP
        self.foot = _TOP + _ROW * len(members)
        self.uses, self.grounds = _users(tailoring, n_layers)
        self.gap = 1.0 if self.cell < 16 else 2.0

    def draw(self, summary: Sequence[str]) -> Markup:
        about = (
            f"One column for each of {count(self.n_layers, 'layer')} of {listed(self.members)}, "
            f"and below them the {count(len(self.tailoring.layers), 'layer')} of the result. "
            + " ".join(summary)
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
        drawn = [
            text(self.left - 10, _TOP + (row + 0.5) * _ROW + 4, name, class_="tick end")
            for row, name in enumerate(self.names)
        ]
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
                box = tag(
                    "rect",
                    tag("title", self._cell_title(member, layer)),
                    x=round(x + self.gap / 2, 1),
                    y=round(_TOP + row * _ROW + self.gap / 2, 1),
                    width=round(self.cell - self.gap, 1),
                    height=round(_ROW - self.gap, 1),
                    rx=2,
                    class_=kind,
                )
                drawn.append(box)
            if layer not in kept:
                ends = (x + 2, self.foot - 2), (x + self.cell - 2, _TOP + 2)
                drawn.append(path(ends, class_="strike"))
        return drawn

    def _cell_title(self, member: str, layer: int) -> str:
        parts = {-1: "embedding", self.n_layers: "norm", self.n_layers + 1: "head"}
        name = f"{member}: {parts[layer]}" if layer in parts else f"{member}:{layer}"
        roles = []
        if users := self.uses.get((member, layer)):
            roles.append(f"is used in {listed(users)}")
        if users := self.grounds.get((member, layer)):
            roles.append(f"is what the differences in {listed(users)} are taken from")
        return f"{name} {listed(roles) or 'is not used'}"

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
                curve = f"C{start:.1f} {middle} {end:.1f} {middle} {end:.1f} {stop}"
                drawn.append(tag("path", d=f"M{start:.1f} {top}{curve}", class_="thread"))
        return drawn

    def _result(self) -> list[Markup]:
        """The layers of the result: a stripe for each source, a letter for the method."""
        n_result, y = len(self.tailoring.layers), self.foot + _THREADS
        drawn = []
        for name, column, spec in _placed(self.tailoring, n_result):
            row = _row(name.removeprefix("the "), spec)
            params = f" ({row.params})" if row.params else ""
            method = "" if spec.method is None else f"{row.method}{params} of "
            base = f", on {row.base}" if method and row.base else ""
            title = f"{row.name} of the result: {method}{row.sources}{base}"
            x, width = self.x(column, n_result), (self.cell - self.gap) / len(spec.sources)
            for index, source in enumerate(spec.sources):
                stripe = tag(
                    "rect",
                    tag("title", title),
                    x=round(x + self.gap / 2 + index * width, 2),
                    y=y,
                    width=round(width, 2),
                    height=_RESULT,
                    class_=f"cell m{self.members.index(source.member) % 9}",
                )
                drawn.append(stripe)
            if spec.method is not None and self.cell >= 9:
                middle, letter = x + self.cell / 2, self.letters[spec.method]
                drawn.append(text(middle, y + _RESULT / 2 + 4, letter, class_="letter mid"))
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
                words = f"{strength:.2f}".removeprefix("0")
                drawn.append(text(middle, y, words, class_="tick mid small"))
        named = text(self.left - 10, y, "scale", class_="tick end small")
        return [named, *drawn] if drawn else []


_Users = dict[tuple[str, int], list[str]]


def _users(tailoring: Tailoring, n_layers: int) -> tuple[_Users, _Users]:
    """Member and column to what uses it as a source, and to what takes differences from it."""
    uses, grounds = _Users(), _Users()
    for name, column, spec in _placed(tailoring, n_layers):
        user = f"{name} of the result" if name.startswith("layer") else name
        named = [(uses, source) for source in spec.sources]
        named += [] if spec.base is None else [(grounds, spec.base)]
        for users, source in named:
            at = column if source.layer is None else source.layer
            users.setdefault((source.member, at), []).append(user)
    return uses, grounds


def _placed(tailoring: Tailoring, n_layers: int) -> list[tuple[str, int, LayerSpec]]:
    """Name, column and spec of each layer and outer part; norm and head follow `n_layers`."""
    columns = {"embedding": -1, "norm": n_layers, "head": n_layers + 1}
    placed = [(f"layer {index}", index, spec) for index, spec in enumerate(tailoring.layers)]
    return placed + [(f"the {part}", columns[part], s) for part, s in tailoring.outer_parts.items()]
