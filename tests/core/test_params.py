"""What a parameter may be."""

import pytest

from gptailor.core.params import Choice, Range


@pytest.mark.parametrize("value", [0.0, 0.25, 1, 1.0])
def test_a_number_within_the_limits_has_no_problem(value: float) -> None:
    assert Range(0.0, 1.0, default=0.5).problem(value) is None


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "0.5", None, [0.5], True])
def test_anything_else_has_a_fault_that_tells_limits_and_value(value: object) -> None:
    error = Range(0.0, 1.0, default=0.5).problem(value)
    assert error == f"must be a number from 0 to 1, not {value!r}"


@pytest.mark.parametrize(("value", "sound"), [(3, True), (3.0, True), (3.5, False), (-1, False)])
def test_a_whole_number_is_asked_for_by_name(value: float, sound: bool) -> None:
    error = Range(0, 10, default=0, integer=True).problem(value)
    assert error == (None if sound else f"must be a whole number from 0 to 10, not {value!r}")


def test_a_search_stays_within_its_own_narrower_limits() -> None:
    assert Range(0.0, 2.0, default=0.5, search_high=1.0).span == (0.0, 1.0)
    assert Range(0.0, 2.0, default=0.5, search_low=0.1).span == (0.1, 2.0)
    assert Range(0.0, 2.0, default=0.5).span == (0.0, 2.0)


def test_a_choice_takes_its_options_and_nothing_else() -> None:
    choice = Choice(("max", "mean"))
    assert choice.problem("mean") is None
    assert choice.problem("median") == "must be one of max, mean, not 'median'"
    assert choice.problem([]) == "must be one of max, mean, not []"
