"""Repetition and loops by slow definitions, and the probe's gold answers."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gptailor.core.objective import Goal, Objective
from gptailor.core.score_table import score_table
from gptailor.core.specs import GENERATION
from gptailor.core.tailoring import BASE
from gptailor.core.trial import Measurement, Scores
from gptailor.tasks.greedy_text import (
    OwnText,
    continued_task,
    loop_period,
    own_text_task,
    probe_task,
    repeated_ngrams,
)
from gptailor.tasks.task import Outcome

FLIPS = ((0.0, 0.025), (0.2, 0.3))  # of two texts, by the base and by a candidate


def random_texts() -> list[list[int]]:
    """Texts of few different tokens, some of which end in loops."""
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 3, rng.integers(0, 40)).tolist() for _ in range(40)]
    for period, times in itertools.product((1, 2, 5, 11, 32, 33), (1, 2, 3, 4)):
        texts.append([7, 8, *rng.permutation(period).tolist() * times])
    return texts


def loop_by_definition(text: Sequence[int]) -> int:
    for period in range(1, 33):
        n = max(2 * period, 12)
        last = range(len(text) - n, len(text))
        if len(text) - n - period >= 0 and all(text[i] == text[i - period] for i in last):
            return period
    return 0


def test_repetition_and_loops_are_what_their_definitions_say() -> None:
    for text in random_texts():
        grams = [text[i : i + 4] for i in range(len(text) - 3)]
        again = [gram in grams[:index] for index, gram in enumerate(grams)]
        assert repeated_ngrams(text) == pytest.approx(np.mean(again) if again else 0.0)
        assert loop_period(text) == loop_by_definition(text)
    looped = {period: [9, *[*range(period)] * 4] for period in (1, 5, 20, 32, 33)}
    found = {period: loop_period(text) for period, text in looped.items()}
    assert found == {1: 0, 5: 5, 20: 20, 32: 32, 33: 0}


def measured(task: Any, **outcome: Any) -> dict[str, float]:
    numbers: dict[str, float] = task.measure(0, [[Outcome(0.0, True, **outcome)]])
    return numbers


def test_what_is_written_has_faults_and_ends_in_time_or_not() -> None:
    task = continued_task([(1, 2)], max_new_tokens=16)
    assert measured(task, text=" a", written=(3, 4, 1)) == dict.fromkeys(task.metrics, 0.0)
    looped = measured(task, text="xxxx", written=(3,) * 16)
    assert looped == {
        "repeated_4grams": pytest.approx(12 / 13),
        "loops": 1.0,
        "empty": 0.0,
        "unterminated": 1.0,
    }
    assert measured(task, text=" \n", written=(1,))["empty"] == 1.0


def test_an_own_text_is_compared_at_every_and_at_critical_positions() -> None:
    task = own_text_task([OwnText((1, 2), (3, 4, 5, 6), critical=(1, 2)), OwnText((1,), (9,), ())])
    flips, nats = (True, False, True, False), (0.5, 0.25, 1.0, 0.25)
    outcome = {"n_tokens": 4, "divergence": sum(nats), "flips": flips, "divergences": nats}
    assert measured(task, **outcome) == {
        "divergence": 0.5,
        "critical_divergence": 0.625,
        "flip_rate": 0.5,
        "critical_flip_rate": 0.5,
    }
    assert task.weights("flip_rate", 2) == (4.0, 1.0)
    assert task.weights("critical_flip_rate", 2) == (2.0, 0.0)


def test_the_probes_gold_answers_are_right_and_judged_without_spaces(tiny_tokenizer: Any) -> None:
    task = probe_task(tiny_tokenizer.encode)
    assert task.digest == probe_task(tiny_tokenizer.encode).digest  # drawn by a fixed seed
    asked = {one.prompt for one in task.examples}
    assert len(asked) > 0.8 * task.n_examples
    for index, one in enumerate(task.examples):
        assert one.prompt is not None
        line = tiny_tokenizer.decode(one.prompt.tokens).rpartition("\n")[2]
        (gold,) = one.prompt.answers
        if line.endswith("="):
            first, second = map(int, line.removesuffix("=").split("+"))
            assert int(gold) == first + second
        else:
            left = (line.removeprefix("open:").removesuffix("close:") + gold).replace(" ", "")
            while left:  # innermost pairs go
                shorter = left.replace("()", "").replace("[]", "").replace("{}", "")
                assert shorter != left
                left = shorter
        for text, value in ((f" {gold}\n", 1.0), (f"{gold}0\n", 0.0), ("", 0.0)):
            numbers = task.measure(index, [[Outcome(0.0, True, text=text)]])
            assert numbers == {"exact_match": value}


def test_a_flip_rate_is_compared_by_its_difference_and_is_no_share_of_the_bases() -> None:
    base, ours = ({GENERATION: {"flip_rate": Measurement("flip_rate", v)}} for v in FLIPS)
    objective = Objective([Goal(GENERATION, "flip_rate")], Scores(base))
    assert objective.scalar(Scores(ours)) == pytest.approx(0.25 - 0.0125)  # not 19 times the base's
    row = score_table({BASE: Scores(base), "result": Scores(ours)}, {GENERATION: "flip_rate"}).rows[
        -1
    ]
    assert row.score.value == 0.25
    assert row.retention is None
