"""However a candidate is reached, its scores are its scores.

Drawn at random: candidates, tasks, who is asked with whom, over which rungs, with how much room,
with members in memory or in files. Held against each other to the bit where the shapes are the
same, and against one plain forward a choice within 1e-3.
"""

import dataclasses
import math
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.core.trial import Job, Scores
from gptailor.engine import Engine, Evaluator
from gptailor.engine.batches import pack
from gptailor.family import Family
from gptailor.family.memory_map import map_tensors
from gptailor.tasks.multiple_choice import ChoiceExample, share_contexts
from gptailor.tasks.task import Passage, Task, TextSize

ByHand = Callable[[Family, Tailoring, list[Passage]], list[list[float]]]
RUNGS = (1, 3, 6)
TOLERANCE = 1e-3

# few different tokens, so that much begins alike
TOKENS = st.lists(st.integers(3, 6), min_size=1, max_size=8).map(tuple)
CHOICES = st.lists(TOKENS, min_size=2, max_size=4)


@st.composite
def drawn_examples(draw: st.DrawFn) -> ChoiceExample:
    """A question; now and then each choice has a context of its own."""
    choices = draw(CHOICES)
    contexts = [draw(TOKENS)] * len(choices)
    if draw(st.booleans()):
        contexts = [draw(TOKENS) for _ in choices]
    passages, places = share_contexts(list(zip(contexts, choices, strict=True)))
    sizes = tuple(TextSize(len(one), len(one), 1, len(one)) for one in choices)
    return ChoiceExample(passages, places, (0,), sizes, answer=sizes[0])


@st.composite
def drawn_tasks(draw: st.DrawFn) -> list[Task]:
    tasks = []
    for name in ("one", "two")[: draw(st.integers(1, 2))]:
        examples = tuple(draw(st.lists(drawn_examples(), min_size=1, max_size=6)))
        metrics = ("acc", "acc_norm", "gold_bits_per_byte", "choice_logprob")
        origins = tuple((name, index) for index in range(len(examples)))
        tasks.append(Task(name, metrics, examples, origins))
    return tasks


@st.composite
def drawn_tailorings(draw: st.DrawFn) -> Tailoring:
    layers = []
    for position in draw(st.lists(st.integers(0, 5), min_size=1, max_size=6, unique=True)):
        sources = draw(st.lists(st.sampled_from((BASE, "math", "code")), min_size=1, unique=True))
        named = [f"{name}:{position}" for name in sources]
        if len(named) == 1:
            layers.append(LayerSpec.of(*named))
        else:
            scale = draw(st.sampled_from((0.25, 0.5)))
            layers.append(LayerSpec.of(*named, merge="task_arithmetic", scale=scale))
    return Tailoring(tuple(sorted(layers, key=lambda spec: spec.position)))


def in_files(family: Family) -> Family:
    states = {BASE: map_tensors(family.states[BASE])}
    states |= {name: map_tensors(family.states[name], states[BASE]) for name in family.members}
    return dataclasses.replace(family, states=states, mapped=True)


def scored(evaluator: Evaluator, group: list[Tailoring], path: list[int]) -> list[Scores]:
    """Ask for a group together, one rung after the other."""
    known: list[Scores | None] = [None for _ in group]
    for n_examples in path:
        jobs = [Job(one, n_examples, known=old) for one, old in zip(group, known, strict=True)]
        known = [done.scores for done in evaluator.evaluate(jobs)]
    return [scores for scores in known if scores is not None]


@settings(
    max_examples=settings.default.max_examples // 6,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    tasks=drawn_tasks(),
    group=st.lists(drawn_tailorings(), min_size=1, max_size=4, unique=True),
    path=st.lists(st.sampled_from(RUNGS), unique=True).map(lambda some: [*sorted(some), 6]),
    room=st.sampled_from((1, 20_000, 2**30)),
)
def test_scores_do_not_depend_on_how_they_were_reached(
    family_of: Callable[..., Family],
    by_hand: ByHand,
    tasks: list[Task],
    group: list[Tailoring],
    path: list[int],
    room: int,
) -> None:
    family = family_of("gemma3_text")
    plain = Evaluator(Engine(family), {"search": tasks}, rungs=RUNGS)
    truth = [scored(plain, [one], [6])[0] for one in group]
    assert scored(plain, group, sorted(set(path))) == truth
    one_layer = sum(tensor.nbytes for tensor in family.layer(Source(BASE, 0)).values())
    starved = Engine(
        in_files(family), cache_bytes=room, state_bytes=room, member_bytes=one_layer + room
    )
    tight = Evaluator(starved, {"search": tasks}, rungs=RUNGS)
    assert scored(tight, group[::-1], [6]) == truth[::-1]
    for task in tasks:
        asked = [passage for index in range(task.n_examples) for passage in task.passages(index)]
        sums = iter(by_hand(family, group[0], asked))
        for index, bits in enumerate(truth[0].tasks[task.name]["gold_bits_per_byte"].values):
            example = task.examples[index]
            assert isinstance(example, ChoiceExample)
            told = [next(sums) for _ in example.passages]
            passage, choice = example.positions[0]
            nats = -bits * example.answer.n_bytes * math.log(2)
            assert abs(nats - told[passage][choice]) < TOLERANCE


@settings(
    max_examples=settings.default.max_examples // 4,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    questions=st.lists(st.builds(Passage, TOKENS, CHOICES.map(tuple)), min_size=1, max_size=8),
    one=drawn_tailorings(),
    row_tokens=st.integers(4, 64),
    batch_tokens=st.integers(4, 200),
)
def test_logprobs_do_not_depend_on_the_packing(
    family_of: Callable[..., Family],
    by_hand: ByHand,
    questions: list[Passage],
    one: Tailoring,
    row_tokens: int,
    batch_tokens: int,
) -> None:
    family = family_of("llama")
    batches = pack(questions, row_tokens=row_tokens, batch_tokens=batch_tokens)
    (result,) = Engine(family).run([one], batches)
    assert result.targets is not None, result.failure
    wanted = by_hand(family, one, questions)
    for batch, found in zip(batches, result.targets, strict=True):
        for span, (passage, number) in enumerate(batch.spans):
            told = float(found.logprob[batch.target_span == span].sum())
            assert abs(told - wanted[batch.numbers[passage]][number]) < TOLERANCE
