"""Which one-layer changes of a tailoring there are, and which fits they keep."""

from gptailor.core.changes import changes_of
from gptailor.core.tailoring import LayerSpec, Tailoring

MEMBERS = ("base", "math")
FIT = "0123456789abcdef"


def of(*layers: LayerSpec | str) -> Tailoring:
    return Tailoring(tuple(LayerSpec.of(x) if isinstance(x, str) else x for x in layers))


def listed(result: Tailoring, n_layers: int) -> list[tuple[str, int, str | None, list[str]]]:
    return [
        (c.kind, c.position, c.member, [str(layer) for layer in c.tailoring.layers])
        for c in changes_of(result, MEMBERS, n_layers)
    ]


def test_each_layer_is_taken_from_each_other_member_dropped_or_put_back() -> None:
    assert listed(of("base:0", "math:2"), 3) == [
        ("taken", 0, "math", ["math:0", "math:2"]),
        ("dropped", 0, None, ["math:2"]),
        ("put back", 1, None, ["base:0", "base:1", "math:2"]),
        ("taken", 2, "base", ["base:0", "base:2"]),
        ("dropped", 2, None, ["base:0"]),
    ]


def test_a_cut_layer_comes_back_as_the_kept_layer_before_it_is_made() -> None:
    merged = LayerSpec.of("base:1", "math:1", merge="linear", weights=(0.25, 0.75))
    back = {
        c.position: c.tailoring.layers
        for c in changes_of(of(merged, "math:4"), MEMBERS, 6)
        if c.kind == "put back"
    }
    assert list(back) == [0, 2, 3, 5]
    moved = merged.with_sources(lambda s: type(s)(s.member, (s.layer or 0) - 1))
    assert back[0] == (moved, merged, LayerSpec.of("math:4"))
    assert str(back[3][1]) == "linear(base:3, math:3, weights=[0.25, 0.75])"
    assert str(back[5][2]) == "math:5"


def test_a_fit_stays_where_neither_the_layer_nor_the_cut_behind_it_changed() -> None:
    fitted = LayerSpec.of("base:1").with_repair(refit_to=4, fitted=FIT)
    found = listed(of("base:0", fitted, "base:4", "base:5"), 6)
    assert ("taken", 0, "math", ["math:0", str(fitted), "base:4", "base:5"]) in found
    again = "base:1, refit_to 4"
    assert ("fitted again", 1, None, ["base:0", again, "base:4", "base:5"]) in found
    assert ("taken", 1, "math", ["base:0", "math:1, refit_to 4", "base:4", "base:5"]) in found
    # the layer that is now before the cut, or before a longer or shorter one, is fitted anew
    assert ("dropped", 1, None, ["base:0, refit_to 4", "base:4", "base:5"]) in found
    assert ("dropped", 4, None, ["base:0", "base:1, refit_to 5", "base:5"]) in found
    back = [row for row in found if row[0] == "put back"]
    assert back == [
        ("put back", 2, None, ["base:0", "base:1", "base:2, refit_to 4", "base:4", "base:5"]),
        ("put back", 3, None, ["base:0", "base:1, refit_to 3", "base:3", "base:4", "base:5"]),
    ]


def test_a_layer_refitted_behind_a_cut_keeps_its_fit_until_it_is_changed() -> None:
    before = LayerSpec.of("base:0").with_repair(refit_to=2, fitted=FIT)
    later = LayerSpec.of("base:2").with_repair(refit_to=3, fitted=FIT)
    found = listed(of(before, later, "base:3"), 4)
    assert ("taken", 3, "math", [str(before), str(later), "math:3"]) in found
    assert ("taken", 2, "math", [str(before), "math:2", "base:3"]) in found
    assert [row[1] for row in found if row[0] == "fitted again"] == [0]


def test_layers_that_moved_are_only_taken_and_dropped() -> None:
    kinds = {kind for kind, *_ in listed(of("base:2", "base:0"), 4)}
    assert kinds == {"taken", "dropped"}


def test_a_layer_merged_from_two_positions_keeps_its_fit_and_loses_it_when_changed() -> None:
    both = LayerSpec.of("base:1", "base:2", merge="linear").with_repair(refit_to=3, fitted=FIT)
    result = of("base:0", both, "base:3")
    found = {(c.kind, c.position, c.member): c.tailoring for c in changes_of(result, MEMBERS, 4)}
    assert found["taken", 0, "math"].layers[1:] == result.layers[1:]
    assert found["taken", 1, "math"].layers[1].refit_to == 3
    assert found["taken", 1, "math"].layers[1].fitted is None
    assert all(kind != "put back" for kind, _, _ in found)


def test_a_layer_with_fitted_tensors_of_its_own_keeps_them() -> None:
    flat = LayerSpec.of("base:1").with_repair(refit_to=3, fitted=FIT)
    result = of("base:0", flat, "base:3", "base:4")
    changes = changes_of(result, MEMBERS, 5, {FIT})
    found = {(c.kind, c.position, c.member): c.tailoring.layers for c in changes}
    assert not {kind for kind, _, _ in found} & {"put back", "fitted again"}
    assert found["dropped", 3, None][1] == flat
    assert found["taken", 1, "base"][1] == LayerSpec.of("base:1").with_repair(refit_to=3)


def test_a_narrowed_layer_is_also_taken_whole_from_its_own_member() -> None:
    narrow = LayerSpec.of("base:0").with_repair(fitted=FIT)
    changes = changes_of(of(narrow, "base:1"), MEMBERS, 2, {FIT})
    assert ("taken", 0, "base") in {(c.kind, c.position, c.member) for c in changes}


def test_a_layer_behind_one_of_a_fitted_model_comes_back_from_that() -> None:
    layers = [
        LayerSpec.of(f"base:{at}", f"math:{at}", merge="linear", weights=(1.0 - w, w))
        for at, w in enumerate((0.2, 0.4, 0.6))
    ]
    changes = changes_of(of(layers[0], layers[2]), MEMBERS, 3, fitted=of(*layers))
    (back,) = (change.tailoring for change in changes if change.kind == "put back")
    assert back == of(*layers)
