"""First candidates: the paper's counts, and blocks where they belong."""

import itertools

import numpy as np
import pytest

from gptailor.searchers.initial_designs import first_designs, late_blocks, paper_cuts, paper_designs
from gptailor.searchers.space import Space, kept_positions

VARIANTS = ("code", "math", "world")


def test_the_papers_designs_are_three_cuts_times_all_that_differs() -> None:
    # 129 in the published code; the 3 single variants at 6 scales are 3, not 18: 3 * 15 fewer.
    space = Space(32, 9, VARIANTS, ("task_arithmetic",))
    designs = list(paper_designs(space, np.random.default_rng(0)))
    assert len(designs) == len(set(designs)) == 129 - 45
    assert len({kept_positions(design) for design in designs}) == 3


@pytest.mark.parametrize(("n_variants", "n_designs"), [(0, 3), (1, 6), (2, 27), (5, 3 * 72)])
def test_any_number_of_variants_has_designs(n_variants: int, n_designs: int) -> None:
    names = tuple(f"v{index}" for index in range(n_variants))
    space = Space(32, 9, names, ("task_arithmetic",))
    assert len(list(paper_designs(space, np.random.default_rng(0)))) == n_designs


def test_the_papers_cuts_are_high_middle_and_alternating() -> None:
    high, middle, alternating = paper_cuts(Space(32, 9), np.random.default_rng(0))
    assert min(high) >= 16
    assert max(high) <= 30
    assert {13, 14, 15, 16, 17, 18, 19} <= set(middle)
    assert sum(layer >= 16 for layer in alternating) == 5


def test_ends_are_cut_only_when_nothing_else_is_left() -> None:
    for cuts in paper_cuts(Space(6, 5), np.random.default_rng(0)):
        assert set(cuts) == {1, 2, 3, 4, 5}


def test_blocks_end_before_the_last_layer() -> None:
    assert late_blocks(Space(10, 3))[0] == (6, 7, 8)
    assert late_blocks(Space(3, 2, keep=frozenset({0})))[0] == (1, 2)
    assert late_blocks(Space(4, 0)) == [()]


def test_first_designs_never_end() -> None:
    designs = first_designs(Space(6, 2, VARIANTS, ("linear",)), np.random.default_rng(0))
    assert len(list(itertools.islice(designs, 50))) == 50
