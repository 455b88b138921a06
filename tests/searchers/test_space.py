"""The space: what is drawn is valid, varied, and as it was asked for."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptailor.core.plugins import MERGE_METHODS
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.errors import ConfigError
from gptailor.searchers.mutation import CHANGES, crossover, draw_position, mutate
from gptailor.searchers.space import Space, complexity, kept_positions

VARIANTS = ("code", "math", "world")
SPACE = Space(30, 7, VARIANTS, ("task_arithmetic",))
RATES = dict.fromkeys(CHANGES, 1.0)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    n_layers = draw(st.integers(2, 9))
    keep = draw(st.frozensets(st.integers(0, n_layers - 1), max_size=n_layers - 1))
    n_removed = draw(st.integers(0, min(n_layers - 1, n_layers - len(keep))))
    methods = draw(st.lists(st.sampled_from(sorted(MERGE_METHODS.builtin)), unique=True))
    variants = VARIANTS[: draw(st.integers(0, 3))]
    tied = draw(st.booleans())
    return Space(n_layers, n_removed, variants, tuple(methods), keep=keep, tied=tied)


@given(
    space=spaces(), seed=st.integers(0, 2**32), n_changes=st.integers(1, 4), late=st.floats(0, 1)
)
@settings(max_examples=3 * settings.default.max_examples)
def test_whatever_is_drawn_changed_or_mixed_stays_in_the_space(
    space: Space, seed: int, n_changes: int, late: float
) -> None:
    rng = np.random.default_rng(seed)
    first, second = space.random(rng), space.random(rng)
    child = mutate(space, first, rng, rates=RATES, n_changes=n_changes, late=late)
    mixed = crossover(space, first, second, rng)
    for tailoring in (first, second, child and child[0], mixed):
        if tailoring is not None:
            tailoring.check(space.members, space.n_layers, tied=space.tied)
            assert len(tailoring.layers) == space.n_kept
            assert space.keep <= set(kept_positions(tailoring))
            assert Tailoring.from_yaml(tailoring.to_yaml()) == tailoring
    assert child is None or child[0] != first


def test_every_set_of_cuts_is_as_likely_as_any_other() -> None:
    space, rng = Space(4, 2), np.random.default_rng(0)
    seen = Counter(space.random_cuts(rng) for _ in range(6000))
    assert len(seen) == 6
    assert all(850 < n < 1150 for n in seen.values())


def test_base_one_variant_and_merges_are_all_frequent() -> None:
    rng = np.random.default_rng(0)
    drawn = [SPACE.random(rng) for _ in range(100)]
    sources = [
        "merge" if len(spec.sources) > 1 else spec.sources[0].member
        for tailoring in drawn
        for spec in tailoring.layers
    ]
    n_base, n_merged = sources.count(BASE), sources.count("merge")
    for n_layers in (n_base, n_merged, len(sources) - n_base - n_merged):
        assert 600 < n_layers < 950


def test_complexity_of_one_written_by_hand() -> None:
    tailoring = Tailoring(
        (
            LayerSpec.of("base:0"),
            LayerSpec.of("math:1"),
            LayerSpec.of("code:2", "math:2", merge="task_arithmetic", scale=0.5),
        ),
        embedding=LayerSpec.of("math"),
    )
    assert complexity(tailoring) == 4


def test_protected_layers_are_never_cut() -> None:
    space = Space(6, 3, keep=frozenset({0, 2, 5}))
    rng = np.random.default_rng(0)
    assert {space.random_cuts(rng) for _ in range(20)} == {(1, 3, 4)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"n_layers": 4, "n_removed": 4}, "cut from 0 to 3"),
        ({"n_layers": 4, "n_removed": -1}, "cut from 0 to 3"),
        ({"n_layers": 4, "n_removed": 3, "keep": frozenset({0, 3})}, "cut 2 at most"),
        ({"n_layers": 4, "n_removed": 1, "methods": ("tis",)}, "did you mean 'ties'"),
    ],
)
def test_an_impossible_space_is_told_in_a_sentence(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Space(**arguments)  # type: ignore[arg-type]


def test_a_space_whose_family_allows_nothing_says_so() -> None:
    space = Space(4, 1, allowed=lambda _: False)
    with pytest.raises(ConfigError, match="cut another number"):
        space.random(np.random.default_rng(0))


def alternates(tailoring: Tailoring) -> bool:
    kinds = [place % 6 for place in kept_positions(tailoring)]
    return all(kind == index % 6 for index, kind in enumerate(kinds))


def test_whole_periods_are_cut_where_only_they_are_allowed() -> None:
    kinds = ("sliding",) * 5 + ("full",)
    space = Space(30, 12, VARIANTS, kinds=kinds * 5, allowed=alternates)
    rng = np.random.default_rng(0)
    tailoring = space.random(rng)
    assert space.period == 6
    assert alternates(tailoring)
    assert len({kept_positions(space.random(rng)) for _ in range(10)}) > 3
    moved = [mutate(space, tailoring, rng, rates={"swap": 1.0}) for _ in range(20)]
    assert any(child is not None and alternates(child[0]) for child in moved)


def test_one_variant_is_never_merged_and_outer_parts_are_only_from_those_named() -> None:
    space = Space(8, 2, ("math",), ("task_arithmetic",), outer_variants=())
    rng = np.random.default_rng(0)
    for _ in range(30):
        tailoring = space.random(rng)
        assert all(len(spec.sources) == 1 for spec in tailoring.layers)
        assert tailoring.embedding == tailoring.head == LayerSpec.of(BASE)


def test_changes_come_late_when_prefixes_are_to_be_shared() -> None:
    rng = np.random.default_rng(0)
    positions = tuple(range(30))
    early = np.mean([draw_position(SPACE, positions, 0.0, rng) for _ in range(500)])
    late = np.mean([draw_position(SPACE, positions, 1.0, rng) for _ in range(500)])
    assert 13 < early < 16
    assert 20 < late < 24


def test_crossover_keeps_what_both_parents_cut() -> None:
    rng = np.random.default_rng(0)
    first, second = SPACE.random(rng), SPACE.random(rng)
    both = set(SPACE.without(kept_positions(first))) & set(SPACE.without(kept_positions(second)))
    either = set(SPACE.without(kept_positions(first))) | set(SPACE.without(kept_positions(second)))
    for _ in range(20):
        child = crossover(SPACE, first, second, rng)
        assert child is not None
        cuts = set(SPACE.without(kept_positions(child)))
        assert both <= cuts <= either
