"""The picture of the model, for every kind of tailoring."""

import re

import pytest

from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.report.layer_map import layer_picture

MEMBERS = ("base", "code", "math")


def take(member: str, layer: int) -> LayerSpec:
    return LayerSpec((Source(member, layer),))


def merge(layer: int, *members: str, method: str = "task_arithmetic", **params: float) -> LayerSpec:
    sources = tuple(Source(member, layer) for member in members)
    return LayerSpec(sources, method, tuple(params.items()))


def titles(svg: str) -> list[str]:
    return re.findall(r"<rect[^>]*><title>([^<]*)</title>", svg)


def test_a_cut_a_taken_and_a_merged_layer_are_told_and_drawn() -> None:
    layers = (take("base", 0), take("math", 2), merge(3, "math", "code", scale=0.6))
    picture = layer_picture(Tailoring(layers), MEMBERS, 4)
    assert picture.summary[0] == "Of 4 layers, 1 is not used: 1."
    assert "1 taken from the base, 1 taken from one variant and 1 merged" in picture.summary[1]
    assert picture.svg.count('class="strike"') == 1
    assert picture.methods == (("a", "task_arithmetic"),)
    told = titles(picture.svg)
    assert "math:2 is used in layer 1 of the result" in told
    assert "math:1 is not used" in told
    assert "base:3 is what the differences in layer 2 of the result are taken from" in told
    merged = "layer 2 of the result: task_arithmetic (scale 0.6) of code:3, math:3, on base:3"
    assert told.count(merged) == 2
    assert ">.60<" in picture.svg
    assert picture.has_grounds


def test_the_table_has_a_line_for_every_layer_and_part() -> None:
    picture = layer_picture(Tailoring.whole("math", 4), MEMBERS, 4)
    assert [row.name for row in picture.rows] == [
        *("layer 0", "layer 1", "layer 2", "layer 3"),
        *("embedding", "norm", "head"),
    ]
    assert {row.kind for row in picture.rows} == {"taken"}
    assert picture.summary[0] == "Of 4 layers, 0 are unused."


def test_moved_and_repeated_layers_keep_their_threads() -> None:
    layers = (take("base", 3), take("base", 0), take("math", 3), take("base", 0), take("base", 1))
    picture = layer_picture(Tailoring(layers), MEMBERS, 4)
    assert picture.svg.count('class="thread"') == 5
    assert "Some layers are in another order than in the base." in picture.summary
    assert "The result uses these layers more than once: 0, 3." in picture.summary


def test_a_merge_across_positions_has_a_thread_to_each() -> None:
    spec = LayerSpec((Source("base", 1), Source("base", 2)), "linear")
    picture = layer_picture(Tailoring((take("base", 0), spec)), ("base",), 4)
    assert picture.svg.count('class="thread"') == 3
    assert picture.rows[1].params == "weights 0.5 / 0.5"
    assert not picture.has_grounds


@pytest.mark.parametrize("n_layers", [1, 6, 30, 80])
@pytest.mark.parametrize("n_variants", [0, 1, 8])
def test_nothing_stands_outside_the_picture(n_layers: int, n_variants: int) -> None:
    members = ("base", *(f"a-variant-with-a-long-name-{i}" for i in range(n_variants)))
    last = members[-1]
    specs = [take(last, layer) for layer in range(n_layers)]
    if n_variants > 1:
        specs = [merge(layer, *members[1:]) for layer in range(n_layers)]
    svg = layer_picture(Tailoring(tuple(specs)), members, n_layers).svg
    width, height = (float(n) for n in re.search(r'viewBox="0 0 (\S+) (\S+)"', svg).groups())  # type: ignore[union-attr]
    assert width <= 1040
    for x, y in re.findall(r'<(?:rect|text)[^>]* x="([-\d.]+)" y="([-\d.]+)"', svg):
        assert 0 <= float(x) <= width
        assert 0 <= float(y) <= height
    for x, w in re.findall(r'<rect[^>]* x="([\d.]+)"[^>]*? width="([\d.]+)"', svg):
        assert float(x) + float(w) <= width + 0.1
