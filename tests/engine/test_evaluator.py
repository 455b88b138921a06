"""Jobs become scores: nested rungs, fixed batches, failures; against one forward at a time."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.core.trial import Job, Scores
from gptailor.engine import Engine, Evaluator
from gptailor.errors import FamilyError
from gptailor.family import Family
from gptailor.tasks.multiple_choice import ChoiceExample
from gptailor.tasks.task import Example, Outcome, Passage, Task

RUNGS = (2, 6, 12)
ByHand = Callable[[Family, Tailoring, list[Passage]], list[list[float]]]


@pytest.fixture
def tasks(choice_example: Callable[[int], ChoiceExample]) -> list[Task]:
    metrics = ("acc", "acc_norm", "gold_bits_per_byte", "choice_logprob")

    def task(name: str, first: int, n: int) -> Task:
        examples: tuple[Example, ...] = tuple(choice_example(first + i) for i in range(n))
        return Task(name, metrics, examples, tuple((name, i) for i in range(n)))

    return [task("long", 0, 12), task("short", 100, 5)]


@pytest.fixture
def evaluator(family_of: Callable[..., Family], tasks: list[Task]) -> Evaluator:
    return Evaluator(Engine(family_of("llama")), {"search": tasks}, rungs=RUNGS)


CANDIDATE = Tailoring(
    (
        LayerSpec.of("base:0"),
        LayerSpec.of("math:2", "code:2", merge="task_arithmetic", scale=0.4),
        LayerSpec.of("code:5"),
    )
)


def scores(evaluator: Evaluator, n: int, known: Scores | None = None) -> Scores:
    (done,) = evaluator.evaluate([Job(CANDIDATE, n, known=known)])
    assert done.scores is not None, done.failure
    return done.scores


def test_more_examples_later_are_the_same_as_all_at_once_to_the_bit(evaluator: Evaluator) -> None:
    stepwise: Scores | None = None
    for n in RUNGS:
        stepwise = scores(evaluator, n, known=stepwise)
    assert stepwise == scores(evaluator, 12)


def test_the_new_examples_alone_are_run(evaluator: Evaluator) -> None:
    few = scores(evaluator, 6)
    (more,) = evaluator.evaluate([Job(CANDIDATE, 12, known=few)])
    (every,) = evaluator.evaluate([Job(CANDIDATE, 12)])
    assert 0 < more.layer_tokens < every.layer_tokens
    assert evaluator.tokens("search", 6, 12) * 3 == more.layer_tokens


def test_a_task_with_fewer_examples_gives_all_it_has(evaluator: Evaluator) -> None:
    told = scores(evaluator, 12)
    assert len(told.tasks["long"]["acc"].values) == 12
    assert len(told.tasks["short"]["acc"].values) == 5


def test_scores_are_those_of_one_forward_a_continuation(
    evaluator: Evaluator,
    tasks: list[Task],
    family_of: Callable[..., Family],
    by_hand: ByHand,
) -> None:
    told = scores(evaluator, 12)
    for task in tasks:
        for index, example in enumerate(task.examples):
            asked = list(task.passages(index))
            totals = by_hand(family_of("llama"), CANDIDATE, asked)
            outcomes = [Outcome(total, greedy=False) for row in totals for total in row]
            truth = example.score(outcomes)
            for metric in ("acc", "choice_logprob", "gold_bits_per_byte"):
                value = told.tasks[task.name][metric].values[index]
                assert value == pytest.approx(truth[metric], abs=1e-3)


def test_a_failed_candidate_has_a_reason_and_no_scores(
    family_of: Callable[..., Family], evaluator: Evaluator
) -> None:
    weight = family_of("llama").layer(Source("code", 5))["mlp.down_proj.weight"]
    kept = weight.clone()
    try:
        weight.fill_(float("inf"))
        good = Tailoring((LayerSpec.of("base:0"),))
        bad, fine = evaluator.evaluate([Job(CANDIDATE, 2), Job(good, 2)])
    finally:
        weight.copy_(kept)
    assert bad.scores is None
    assert "code:5" in str(bad.failure)
    assert fine.scores is not None


def test_an_engine_that_is_used_from_python_is_checked_as_by_the_command_line(
    pico: Family, tasks: list[Task]
) -> None:
    damaged = {name: t * 2 if "q_proj" in name else t for name, t in pico.states["base"].items()}
    engine = Engine(replace(pico, states={**pico.states, "base": damaged}))
    engine.family = replace(pico)  # the model is made of other weights than the layers
    with pytest.raises(FamilyError, match="packed scores differ"):
        Evaluator(engine, {"search": tasks}).evaluate([Job(CANDIDATE, 2)])


def test_a_divergence_is_measured_where_a_task_names_a_member(
    family_of: Callable[..., Family], choice_example: Callable[[int], ChoiceExample]
) -> None:
    examples: tuple[Example, ...] = tuple(choice_example(i) for i in range(4))
    origins = tuple(("near", i) for i in range(4))
    task = Task("near", ("acc", "divergence"), examples, origins)
    family = family_of("llama")
    evaluator = Evaluator(Engine(family), {"search": [task]}, teachers={"near": "math"})
    same, other = evaluator.evaluate(
        [Job(Tailoring.whole("math", 6), 4), Job(Tailoring.whole("code", 6), 4)]
    )
    assert same.scores is not None
    assert other.scores is not None
    assert same.scores.value("near", "divergence") == pytest.approx(0, abs=1e-5)
    assert other.scores.value("near", "divergence") > 0.01


def test_scores_do_not_depend_on_the_number_of_threads_by_much(evaluator: Evaluator) -> None:
    one = scores(evaluator, 6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        two = scores(evaluator, 6)
    finally:
        torch.set_num_threads(before)
    for task, metrics in one.tasks.items():
        values = two.tasks[task]["choice_logprob"].values
        assert values == pytest.approx(metrics["choice_logprob"].values, abs=1e-4)
