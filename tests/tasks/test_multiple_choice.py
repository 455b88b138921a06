"""Right answers and the numbers they come to; lm-eval's own `process_results` is the oracle."""

import math
import timeit
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptailor.tasks.multiple_choice import ChoiceExample, share_contexts
from gptailor.tasks.task import Outcome

LOGS = st.one_of(st.floats(-60, 0), st.sampled_from([-1.0, -2.0, -4.0]))  # ties on purpose


@pytest.fixture(scope="module")
def lm_eval_numbers() -> Callable[..., dict[str, float]]:
    """lm-eval's own `process_results`, on a task without data of its own."""
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    from gptailor.tasks.lm_eval.runtime import as_lm_eval_runs

    data = {"c": [["x", "y"]], "g": [0]}
    config = {
        "task": "oracle",
        "custom_dataset": lambda **_: {"test": Dataset.from_dict(data)},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "",
        "doc_to_choice": "c",
        "doc_to_target": "g",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    with as_lm_eval_runs():
        task = TaskManager(include_defaults=False).load([config])["tasks"]["oracle"]
    return lambda choices, gold, responses: task.process_results(
        {"c": choices, "g": gold}, responses
    )


@settings(deadline=None)
@given(data=st.data())
def test_accuracies_are_what_lm_eval_makes_of_the_same_log_likelihoods(
    lm_eval_numbers: Any, data: st.DataObject
) -> None:
    choices = data.draw(
        st.lists(st.text("aé東🙂 ", min_size=1, max_size=6), min_size=2, max_size=5, unique=True)
    )
    gold = data.draw(st.integers(0, len(choices) - 1))
    responses = [(data.draw(LOGS), False) for _ in choices]
    example = ChoiceExample(
        passages=(),
        places=(),
        gold=(gold,),
        lengths=tuple(float(len(one)) for one in choices),
        answer_bytes=len(choices[gold].encode()),
    )
    ours = example.score(responses)
    theirs = lm_eval_numbers(choices, gold, responses)
    assert {metric: ours[metric] for metric in theirs} == theirs


def example(gold: tuple[int, ...] = (1,)) -> ChoiceExample:
    passages, places = share_contexts([((1,), (2, 3)), ((9,), (4,)), ((1,), (5,))])
    return ChoiceExample(passages, places, gold, (3.0, 4.0, 5.0), 4)


def test_outcomes_go_back_to_the_choices_they_belong_to() -> None:
    one = example()
    assert [p.context for p in one.passages] == [(1,), (9,)]
    outcomes = [
        [Outcome(-1.0, True, 2), Outcome(-3.0, False, 1)],
        [Outcome(-2.0, False, 1)],
    ]
    assert one.responses(outcomes) == [(-1.0, True), (-2.0, False), (-3.0, False)]


def test_bits_and_log_probability_of_the_right_answer_by_hand() -> None:
    numbers = example().score([(math.log(0.5), False), (math.log(0.25), False), (-50.0, False)])
    assert numbers["gold_bits_per_byte"] == pytest.approx(2 / 4)  # 2 bits, 4 bytes
    assert numbers["choice_logprob"] == pytest.approx(math.log(1 / 3))


def test_any_of_several_right_choices_is_right() -> None:
    numbers = example((0, 2)).score([(-5.0, False), (-9.0, False), (-1.0, False)])
    assert numbers["acc"] == 1.0
    likely = math.exp(-5) + math.exp(-1)
    assert numbers["choice_logprob"] == pytest.approx(math.log(likely / (likely + math.exp(-9))))


def test_hopeless_choices_do_not_underflow() -> None:
    numbers = example().score([(-1.0, False), (-5000.0, False), (-2.0, False)])
    assert numbers["choice_logprob"] == pytest.approx(-5000.0, abs=2)


def test_measuring_an_example_costs_microseconds() -> None:
    one = example()
    responses = [(-1.0, False), (-2.0, False), (-3.0, False)]
    assert min(timeit.repeat(lambda: one.score(responses), number=100, repeat=5)) / 100 < 50e-6
