"""Repairs as data: which layers are refitted or scaled, and how a file says it."""

import math
from typing import Any

import pytest

from gptailor.core.repair import Cut, cuts_of, gaps_of, refit_cuts, scale_cuts, without_repair
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import TailoringError

DIGEST = "9f3c21d07a5e44b1"
MERGED = LayerSpec.of("math:1", "code:1", merge="task_arithmetic", scale=0.6)


def base(*positions: int) -> Tailoring:
    """The base's layers at some positions."""
    return Tailoring(tuple(LayerSpec.of(f"base:{position}") for position in positions))


@pytest.mark.parametrize(
    ("spec", "plain"),
    [
        (
            LayerSpec.of("math:3").with_repair(refit_to=6),
            {"source": "math:3", "refit_to": 6},
        ),
        (
            LayerSpec.of("math:3").with_repair(gain=0.83, fitted=DIGEST),
            {"source": "math:3", "gain": 0.83, "fitted": DIGEST},
        ),
        (
            MERGED.with_repair(gain=2, refit_to=3),
            {
                "merge": "task_arithmetic",
                "scale": 0.6,
                "sources": ["code:1", "math:1"],
                "gain": 2.0,
                "refit_to": 3,
            },
        ),
        (LayerSpec.of("math:3").with_repair(gain=1), "math:3"),
    ],
)
def test_a_repair_is_written_beside_the_sources_and_reads_back_equal(
    spec: LayerSpec, plain: object
) -> None:
    assert spec.to_plain() == plain
    assert LayerSpec.from_plain(plain) == spec
    tailoring = Tailoring((spec, LayerSpec.of("base:5")))
    again = Tailoring.from_yaml(tailoring.to_yaml())
    assert (again, hash(again), again.digest) == (tailoring, hash(tailoring), tailoring.digest)


def test_equal_repairs_are_equal_and_others_are_not() -> None:
    spec = LayerSpec.of("math:3")
    others = [spec, *(spec.with_repair(**r) for r in ({"gain": 0.5}, {"refit_to": 5}))]
    others += [spec.with_repair(fitted=DIGEST), spec.with_repair(refit_to=5, fitted=DIGEST)]
    assert len(set(others)) == len({Tailoring((each,)).digest for each in others}) == 5
    assert all(each.with_repair() == spec for each in others)
    assert [each.repaired for each in others] == [False, True, True, True, True]
    assert LayerSpec.of("math:3").with_repair(gain=1) == spec


@pytest.mark.parametrize(
    ("plain", "told"),
    [
        *(({"source": "math:3", "gain": gain}, "gain must be a number from 1e-06 to") for gain in
          (0, -1.0, math.nan, math.inf, True, "2", 1e7)),
        *(({"source": "math:3", "refit_to": end}, "refit_to must be the position after the cut")
          for end in (3, 0, -1, 4.0, True, "5")),
        *(({"source": "math:3", "fitted": name}, "fitted must be 16 hex digits") for name in
          ("", "9F3C21D07A5E44B1", "../../secrets.txt", DIGEST + "0", 5)),
        ({"source": "math", "gain": 0.5}, "only layers are repaired"),
        ({"source": "math", "refit_to": 5}, "refit_to must be the position"),
        ({"source": "math:3", "refit": 5}, "did you mean 'refit_to'"),
        ({"source": "math:3", "scale": 0.5}, "unknown key 'scale'"),
        ({"gain": 0.5}, "a merge needs 'sources'"),
    ],
)  # fmt: skip
def test_a_repair_that_is_none_is_refused_in_one_sentence(plain: Any, told: str) -> None:
    with pytest.raises(TailoringError, match=told) as caught:
        LayerSpec.from_plain(plain)
    assert len(caught.value.problems) == 1


def test_a_refit_beyond_the_last_layer_does_not_fit_the_family() -> None:
    beyond = Tailoring((LayerSpec.of("base:3").with_repair(refit_to=7),))
    beyond.check(("base",), 7)
    with pytest.raises(TailoringError, match=r"layers\[0\]: refit_to is 7, beyond the 6 layers"):
        beyond.check(("base",), 6)


@pytest.mark.parametrize(
    ("kept", "cuts"),
    [
        ((0, 1, 2, 3, 4, 5), ()),
        ((2, 3, 4, 5), (Cut(0, 2, None),)),
        ((0, 1, 2, 3), (Cut(4, 6, 3),)),
        ((0, 3, 4), (Cut(1, 3, 0), Cut(5, 6, 2))),
        ((0, 2, 4), (Cut(1, 2, 0), Cut(3, 4, 1), Cut(5, 6, 2))),
        ((3,), (Cut(0, 3, None), Cut(4, 6, 0))),
    ],
)
def test_cuts_are_the_runs_of_positions_without_a_layer(
    kept: tuple[int, ...], cuts: tuple[Cut, ...]
) -> None:
    assert cuts_of(base(*kept), 6) == cuts


def test_a_layer_merged_from_positions_of_one_member_is_refitted_to_the_next_layer() -> None:
    both = LayerSpec.of("math:1", "math:2", merge="linear")
    tailoring = Tailoring((LayerSpec.of("base:0"), both, LayerSpec.of("code:5")))
    assert cuts_of(tailoring, 6) == ()  # what it adds to the stream is not known
    assert gaps_of(tailoring, 6) == (Cut(2, 5, 1),)
    assert [spec.refit_to for spec in refit_cuts(tailoring, 6).layers] == [None, 5, None]
    assert scale_cuts(tailoring, 6, {}) == tailoring


def test_a_merge_stands_at_the_lowest_position_of_its_sources_and_their_base() -> None:
    laco = LayerSpec.of("math:2", "math:3", merge="task_arithmetic", base="math:1", scale=1.0)
    assert laco.position == 2
    tailoring = Tailoring((LayerSpec.of("base:0"), laco, LayerSpec.of("base:5")))
    assert gaps_of(tailoring, 6) == (Cut(2, 5, 1),)


def test_layers_that_are_not_in_order_have_no_known_cut() -> None:
    moved = base(2, 0)
    assert gaps_of(moved, 4) == ()
    assert refit_cuts(moved, 4) == moved


def test_a_layer_merged_from_positions_of_several_members_is_not_repaired() -> None:
    mixed = LayerSpec.of("base:4", "code:5", merge="linear")
    tailoring = Tailoring((*base(0, 2).layers, mixed))
    assert gaps_of(tailoring, 6) == ()
    assert refit_cuts(tailoring, 6) == tailoring


def test_the_layer_before_each_cut_is_refitted_to_its_end() -> None:
    plain = Tailoring((LayerSpec.of("base:0"), MERGED, LayerSpec.of("code:4")))
    refitted = refit_cuts(plain, 6)
    assert [spec.refit_to for spec in refitted.layers] == [None, 4, 6]
    assert refit_cuts(refitted, 6) == refitted
    assert without_repair(refitted) == plain
    assert refit_cuts(base(2, 3, 4, 5), 6) == base(2, 3, 4, 5)
    whole = Tailoring.whole("math", 6)
    assert refit_cuts(whole, 6) == whole


def test_a_layer_with_fitted_tensors_of_its_own_keeps_them() -> None:
    first, second, last = base(0, 1, 4).layers
    narrow = Tailoring((first, second.with_repair(fitted=DIGEST), last))
    refitted = refit_cuts(narrow, 6)
    assert refitted.layers == (first, narrow.layers[1], last.with_repair(refit_to=6))
    assert without_repair(refitted) == narrow
    scaled = scale_cuts(narrow, 6, {"base": (1.0,) * 7})
    assert scaled == narrow


def test_layers_behind_cuts_are_divided_by_the_products_of_the_norms_ratios() -> None:
    tailoring = Tailoring((LayerSpec.of("base:0"), MERGED, LayerSpec.of("base:3")))
    tailoring = Tailoring((*tailoring.layers, LayerSpec.of("base:5")), head=LayerSpec.of("math"))
    norms = {
        "base": (1.0, 2.0, 3.0, 4.0, 5.0, 20.0, 40.0),
        "math": (1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0),  # 6 / 4 over the cut at 2
        "code": (1.0, 2.0, 4.0, 8.0, 9.0, 10.0, 12.0),  # 8 / 4
    }
    scaled = scale_cuts(tailoring, 6, norms)
    first = math.sqrt(1.5 * 2.0)  # of both sources of the layer before the cut
    second = first * 20.0 / 5.0
    assert [spec.gain for spec in scaled.layers] == pytest.approx(
        [1.0, 1.0, 1 / first, 1 / second], rel=1e-5
    )
    assert scaled.head == LayerSpec.of("math")
    assert scale_cuts(scaled, 6, norms) == scaled
    assert without_repair(scaled) == tailoring


def test_a_stream_that_grows_a_million_times_has_a_gain_of_its_own() -> None:
    norms = {"base": (1.0, 3e4, 9e4, 9e4, 9e4, 9e4, 9e4)}
    (_, spec, *_) = scale_cuts(base(0, 2, 3, 4, 5), 6, norms).layers
    assert spec.gain == pytest.approx(1 / 3, rel=1e-5)
    norms = {"base": (1.0, 1.0, 30011.0, 1.0, 1.0, 1.0, 1.0)}
    (_, spec, *_) = scale_cuts(base(0, 2, 3, 4, 5), 6, norms).layers
    assert spec.gain == pytest.approx(1 / 30011.0, rel=1e-5)


def test_a_model_is_not_scaled_where_the_layer_before_a_cut_may_stand_for_it() -> None:
    flat = LayerSpec.of("base:1").with_repair(fitted="0123456789abcdef")
    tailoring = Tailoring((LayerSpec.of("base:0"), flat, LayerSpec.of("base:4")))
    norms = {"base": (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)}
    assert scale_cuts(tailoring, 5, norms) == tailoring
