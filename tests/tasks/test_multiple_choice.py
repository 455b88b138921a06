"""Gold answers and the numbers they come to; lm-eval's own `process_results` is the oracle."""

import math
import timeit
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptailor.tasks.multiple_choice import ChoiceExample, share_contexts
from gptailor.tasks.task import Outcome, TextSize

LOGS = st.one_of(st.floats(-60, 0), st.sampled_from([-1.0, -2.0, -4.0]))  # ties on purpose


@pytest.fixture(scope="module")
def lm_eval_numbers() -> Callable[..., dict[str, float]]:
    """lm-eval's own `process_results`, on a task without data of its own."""
    from datasets import Dataset
    from lm_eval.tasks import TaskManager

    from gptailor.tasks.lm_eval.open_task import as_lm_eval_runs

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
        positions=(),
        gold=(gold,),
        texts=tuple(TextSize.of(choice, 1) for choice in choices),
        answer=TextSize.of(choices[gold], 1),
    )
    ours = example.score(outcomes_of(*(logprob for logprob, _ in responses)))
    theirs = lm_eval_numbers(choices, gold, responses)
    assert {metric: ours[metric] for metric in theirs} == theirs


def outcomes_of(*logprobs: float) -> list[Outcome]:
    return [Outcome(logprob, greedy=False) for logprob in logprobs]


def example(gold: tuple[int, ...] = (1,)) -> ChoiceExample:
    passages, positions = share_contexts([((1,), (2, 3)), ((9,), (4,)), ((1,), (5,))])
    sizes = tuple(TextSize(1, n, 1, n) for n in (3, 4, 5))
    return ChoiceExample(passages, positions, gold, sizes, TextSize(1, 4, 1, 4))


def test_outcomes_go_back_to_the_choices_they_belong_to() -> None:
    one = example()
    assert [p.context for p in one.passages] == [(1,), (9,)]
    outcomes = [
        [Outcome(-1.0, True, 2), Outcome(-3.0, False, 1)],
        [Outcome(-2.0, False, 1)],
    ]
    assert [answer.logprob for answer in one.in_order(outcomes)] == [-1.0, -2.0, -3.0]
    assert [answer.greedy for answer in one.in_order(outcomes)] == [True, False, False]


def test_bits_and_log_probability_of_the_gold_answer_by_hand() -> None:
    numbers = example().score(outcomes_of(math.log(0.5), math.log(0.25), -50.0))
    assert numbers["gold_bits_per_byte"] == pytest.approx(2 / 4)  # 2 bits, 4 bytes
    assert numbers["choice_logprob"] == pytest.approx(math.log(1 / 3))


def test_any_of_several_gold_choices_is_right() -> None:
    numbers = example((0, 2)).score(outcomes_of(-5.0, -9.0, -1.0))
    assert numbers["acc"] == 1.0
    likely = math.exp(-5) + math.exp(-1)
    assert numbers["choice_logprob"] == pytest.approx(math.log(likely / (likely + math.exp(-9))))


def test_hopeless_choices_do_not_underflow() -> None:
    numbers = example().score(outcomes_of(-1.0, -5000.0, -2.0))
    assert numbers["choice_logprob"] == pytest.approx(-5000.0, abs=2)


def test_measuring_an_example_costs_microseconds() -> None:
    one = example()
    outcomes = outcomes_of(-1.0, -2.0, -3.0)
    assert min(timeit.repeat(lambda: one.score(outcomes), number=100, repeat=5)) / 100 < 50e-6
