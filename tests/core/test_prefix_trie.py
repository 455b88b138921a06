"""Candidates are gone through as their trie is, and what they share is counted."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gptailor.core.prefix_trie import in_order, prefix_trie
from gptailor.core.tailoring import LayerSpec, Source, Tailoring


def _tailoring(word: str) -> Tailoring:
    """One layer a letter: a lower-case one of the base, an upper-case one of a variant."""
    layers = (
        LayerSpec((Source("v" if letter.isupper() else "base", ord(letter.lower()) - ord("a")),))
        for letter in word
    )
    return Tailoring(tuple(layers))


words = st.lists(st.sampled_from(["a", "ab", "abc", "aBc", "ABc", "ABC", "b", "bc"]), min_size=1)


@given(words)
def test_every_candidate_comes_once_behind_the_one_it_shares_most_with(told: list[str]) -> None:
    row = list(in_order([_tailoring(word) for word in told]))
    assert sorted(index for index, _ in row) == list(range(len(told)))
    for (before, _), (index, shared) in itertools.pairwise(row):
        pairs = zip(told[before], told[index], strict=False)
        assert shared == sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    behind = sum(len(told[index]) - shared for index, shared in row)
    prefixes = {word[:depth] for word in told for depth in range(1, len(word) + 1)}
    assert behind == len(prefixes)  # in any other order it would be more


def test_leaves_are_counted_at_every_depth() -> None:
    (root,) = prefix_trie([_tailoring(word) for word in ("abc", "abC", "ab", "abc")])
    (first,) = root.children.values()
    (second,) = first.children.values()
    assert (root.n_leaves, first.n_leaves, second.leaves) == (4, 4, [2])
    assert [node.leaves for node in second.children.values()] == [[0, 3], [1]]
