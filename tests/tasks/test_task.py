"""The nested order, the weights and the digest of a task."""

import dataclasses
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptailor.core.metrics import aggregate
from gptailor.tasks.multiple_choice import ChoiceExample
from gptailor.tasks.task import Outcome, Passage, Task, TextSize, nested_order
from gptailor.tasks.text import ContinuationExample, RollingExample

LETTER = TextSize(1, 1, 1, 1)
STRATA = st.lists(st.sampled_from("abc"), min_size=1, max_size=60)


@settings(deadline=None)
@given(strata=STRATA, seed=st.integers(0, 2**32))
def test_the_order_is_a_permutation(strata: list[str], seed: int) -> None:
    assert sorted(nested_order(strata, seed)) == list(range(len(strata)))


@settings(deadline=None)
@given(strata=STRATA, seed=st.integers(0, 2**32))
def test_every_beginning_of_the_order_stands_for_the_whole(strata: list[str], seed: int) -> None:
    sizes = Counter(strata)
    order = nested_order(strata, seed)
    for n in range(1, len(strata) + 1):
        found = Counter(strata[index] for index in order[:n])
        for stratum, size in sizes.items():
            assert abs(found[stratum] - n * size / len(strata)) < len(sizes)


def test_the_order_is_the_same_on_every_machine() -> None:
    assert nested_order("aabbbbcccccc", seed=7) == nested_order("aabbbbcccccc", seed=7)
    assert nested_order("aaaaaaaa", seed=0) == (2, 4, 3, 6, 5, 0, 1, 7)
    assert nested_order("a" * 30, seed=1) != nested_order("a" * 30, seed=2)


def choice(tokens: int, answer_bytes: int = 4) -> ChoiceExample:
    passage = Passage((0,), tuple((tokens, n) for n in range(2)))
    choices = (TextSize(2, 3, 1, 3), TextSize(2, 4, 1, 4))
    return ChoiceExample(
        (passage,), ((0, 0), (0, 1)), (1,), choices, TextSize(2, 4, 1, answer_bytes)
    )


def group(equal: bool) -> Task:
    metrics = ("acc", "gold_bits_per_byte", "divergence")
    return Task(
        name="group",
        metrics=metrics,
        examples=tuple(choice(n, answer_bytes=2 + n) for n in range(5)),
        origins=(("big", 0), ("small", 0), ("big", 1), ("big", 2), ("small", 1)),
        equal_subtasks=frozenset(metrics) if equal else frozenset(),
    )


def test_chance_is_gold_answers_by_choices_and_one_number_where_all_have_the_same() -> None:
    both = dataclasses.replace(choice(1), gold=(0, 1))
    text = ContinuationExample((Passage((0,), ((1,),)),), (LETTER,))
    made = {
        "even": (choice(1), choice(2)),
        "mixed": (choice(1), both),
        "text": (choice(1), text),
        "own": (choice(1), dataclasses.replace(choice(2), own=lambda _: {"acc": 0.3})),
    }
    chances = {
        name: Task(name, ("acc",), examples, (("t", 0),) * 2).chance
        for name, examples in made.items()
    }
    assert chances == {"even": (0.5,), "mixed": (0.5, 1.0), "text": (), "own": ()}


@pytest.mark.parametrize("n", [2, 3, 5])
def test_equal_parts_of_a_group_count_the_same_among_any_first_n(n: int) -> None:
    task = group(equal=True)
    values = [1.0 if part == "big" else 0.0 for part, _ in task.origins[:n]]
    assert aggregate("acc", values, task.weights("acc", n)) == pytest.approx(0.5)
    assert aggregate("acc", values, task.weights("gold_bits_per_byte", n)) == pytest.approx(0.5)


def test_within_a_part_examples_count_by_their_bytes_and_parts_by_their_size() -> None:
    task = group(equal=False)
    assert task.weights("acc", 5) is None
    weights = task.weights("gold_bits_per_byte", 5)
    assert weights is not None
    # big: bytes 2, 4, 5 and three examples; small: bytes 3, 6 and two examples
    assert weights == pytest.approx((2 * 3 / 11, 3 * 2 / 9, 4 * 3 / 11, 5 * 3 / 11, 6 * 2 / 9))


def test_divergence_is_per_token_and_only_told_where_it_was_measured() -> None:
    task = group(equal=False)
    outcomes = [[Outcome(-1.0, False, 2, 0.5), Outcome(-2.0, False, 2, 1.5)]]
    assert task.measure(0, outcomes)["divergence"] == pytest.approx(0.5)
    without = [[Outcome(-1.0, False, 2), Outcome(-2.0, False, 2)]]
    assert "divergence" not in task.measure(0, without)


def test_a_text_counts_by_its_own_unit() -> None:
    units = {"word_perplexity": 3, "bits_per_byte": 17}
    example = RollingExample((Passage((0,), ((1,),)),), units, (TextSize(1, 17, 4, 18),))
    assert example.weight("word_perplexity") == 3.0
    assert example.weight("bits_per_byte") == 17.0


def test_the_digest_sees_every_token_and_where_it_stands() -> None:
    def digest(*passages: Passage) -> str:
        example = ChoiceExample(passages, ((0, 0),), (0,), (LETTER,), LETTER)
        return Task("t", ("acc",), (example,), (("t", 0),)).digest

    one = digest(Passage((1, 2), ((3,), (4,))))
    assert one == digest(Passage((1, 2), ((3,), (4,))))
    assert one != digest(Passage((1,), ((2, 3), (4,))))
    assert one != digest(Passage((1, 2), ((3, 4),)))
    assert len(one) == 64


def test_the_digest_sees_which_choice_is_right_and_what_it_is_divided_by() -> None:
    passage = Passage((1, 2), ((3,), (4,), (5, 6)))

    def digest(right: int, answer_bytes: int = 1) -> str:
        positions = ((0, 0), (0, 1), (0, 2))
        sizes = (LETTER, LETTER, TextSize(2, 2, 1, 2))
        answer = TextSize(1, 1, 1, answer_bytes)
        example = ChoiceExample((passage,), positions, (right,), sizes, answer)
        return Task("t", ("acc", "gold_bits_per_byte"), (example,), (("t", 0),)).digest

    assert len({digest(right) for right in range(3)}) == 3
    assert digest(0) == digest(0)
    assert digest(0) != digest(0, answer_bytes=2)
