"""The three parts never share an example, and each subtask is in each."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptailor.errors import TaskError
from gptailor.tasks.splits import Document, DocumentSplits, divide, limited

SHARES = (0.5, 0.2, 0.3)


def documents(texts: list[int], subtask: str = "subtask") -> list[Document]:
    return [Document(subtask, index, (f"text {text}",)) for index, text in enumerate(texts)]


def split(
    found: list[Document], report: list[Document] | None = None, seed: int = 0
) -> DocumentSplits:
    return divide("t", found, test=report, shares=SHARES, seed=seed)


@settings(deadline=None)
@given(texts=st.lists(st.integers(0, 12), min_size=30, max_size=60), seed=st.integers(0, 99))
def test_every_example_stands_in_one_part_and_its_duplicates_with_it(
    texts: list[int], seed: int
) -> None:
    found = documents([*texts, 100, 101, 102])
    parts = split(found, seed=seed)
    placed = [*parts.search, *parts.selection, *parts.test]
    assert Counter(placed) == Counter(found)
    texts_of = [{one.text for one in part} for part in (parts.search, parts.selection, parts.test)]
    assert sum(map(len, texts_of)) == len(set.union(*texts_of))


def test_parts_have_their_shares_of_every_subtask() -> None:
    found = documents(list(range(100)), "big") + [
        Document("small", index, (f"small {index}",)) for index in range(20)
    ]
    parts = split(found)
    for part, share in ((parts.search, 0.5), (parts.selection, 0.2), (parts.test, 0.3)):
        leaves = Counter(one.subtask for one in part)
        assert leaves["big"] == pytest.approx(100 * share, abs=2)
        assert leaves["small"] == pytest.approx(20 * share, abs=2)


def test_the_same_seed_gives_the_same_parts_and_another_gives_others() -> None:
    found = documents(list(range(50)))
    assert split(found, seed=1) == split(found, seed=1)
    assert split(found, seed=1).test != split(found, seed=2).test


def test_a_report_of_its_own_loses_what_was_searched_and_says_so() -> None:
    report = documents([0, 1, 2, 50, 51], "dev")
    parts = split(documents(list(range(20))), report)
    assert [one.text for one in sorted(parts.test, key=lambda one: one.index)] == [
        ("text 50",),
        ("text 51",),
    ]
    assert parts.notes == (
        "task 't': 3 of 5 test examples are also among the search or selection examples and were "
        "dropped",
    )
    assert len(parts.search) + len(parts.selection) == 20
    assert len(parts.selection) == round(20 * 0.2 / 0.7)
    with pytest.raises(TaskError, match=r"'t': all 3 test examples are .* so none is unseen; name"):
        split(documents(list(range(20))), report[:3])


def test_a_limit_keeps_the_beginning_of_the_search_part() -> None:
    parts = split(documents(list(range(50))))
    short = limited("t", parts, 7)
    assert short.search == parts.search[:7]
    assert short.test == parts.test
    assert short.notes == ("task 't': the search split uses 7 of 25 examples (limit)",)
    assert limited("t", parts, 25) == parts
    assert limited("t", parts, None) == parts


def test_a_report_limit_keeps_the_beginning_of_the_report_part() -> None:
    parts = split(documents(list(range(50))))
    short = limited("t", parts, None, 3)
    assert short.search == parts.search
    assert short.test == parts.test[:3]
    assert short.notes == (
        f"task 't': the test split uses 3 of {len(parts.test)} examples (limit)",
    )


@pytest.mark.parametrize(
    ("texts", "empty"), [([1, 2], "search"), ([1] * 20, "search and selection")]
)
def test_a_part_without_examples_is_refused(texts: list[int], empty: str) -> None:
    with pytest.raises(TaskError, match=f"the {empty} split would be empty: {len(texts)} examples"):
        split(documents(texts))
