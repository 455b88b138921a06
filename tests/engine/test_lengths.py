"""A rotary embedding that depends on a row's length: each sequence has its own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Engine, Evaluator
from gptailor.engine.generate import generate
from gptailor.engine.selfcheck import plain_logprobs, refuse_inexact
from gptailor.family import Family, family_of
from gptailor.tasks.multiple_choice import ChoiceExample
from gptailor.tasks.task import Passage, Prompt, Task, TextSize

BOUND = 12
HALF = 4  # pairs of a head's dimensions
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": BOUND,
    "short_factor": [1.0] * HALF,
    "long_factor": [3.0, 5.0, 7.0, 9.0],
}
LONG: dict[str, Any] = {
    "num_hidden_layers": 2,
    "rope_parameters": LONGROPE,
    "original_max_position_embeddings": BOUND,
    "pad_token_id": 2,
}
LENGTHS = ((3, (2, 4)), (9, (2, 9)), (10, (3, 4)), (20, (1, 5)), (5, (20, 2)))


@pytest.fixture(scope="module")
def family(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> Family:
    model = tiny_model("phi3", **LONG)
    return family_of(model, {}, tiny_tokenizer)


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Any]) -> Any:
    return tiny_model("phi3", **LONG)


def tokens(n: int, start: int) -> tuple[int, ...]:
    return tuple((start * 31 + 7 * place) % 317 + 3 for place in range(n))


def question(index: int) -> ChoiceExample:
    length, sizes = LENGTHS[index]
    choices = tuple(tokens(size, 50 + 10 * index + size) for size in sizes)
    return ChoiceExample(
        passages=(Passage(tokens(length, 7), choices),),  # all begin alike: rows are shared
        positions=((0, 0), (0, 1)),
        gold=(0,),
        texts=tuple(TextSize(size, size, 1, size) for size in sizes),
        answer=TextSize(sizes[0], sizes[0], 1, sizes[0]),
        own=None,
    )


def test_a_score_does_not_depend_on_who_shares_its_batch(family: Family, model: Any) -> None:
    examples = tuple(question(index) for index in range(len(LENGTHS)))
    metrics = ("gold_bits_per_byte", "choice_logprob")
    origins = tuple(("quiz", index) for index in range(len(LENGTHS)))
    task = Task("quiz", metrics, examples, origins)
    engine = Engine(family)
    assert engine.rotary_bounds == (BOUND,)
    refuse_inexact(engine)  # on passages on both sides of the bound
    job = Job(Tailoring.whole(BASE, 2), len(LENGTHS), "search")
    (done,) = Evaluator(engine, {"search": [task]}).evaluate([job])
    assert done.scores is not None
    for index, example in enumerate(examples):
        (passage,) = example.passages
        wanted = []
        for choice in passage.continuations:  # alone, as transformers runs it
            logprobs = plain_logprobs(model, (Passage(passage.context, (choice,)),))
            wanted.append(float(logprobs.sum()))
        shares = torch.tensor(wanted).log_softmax(0)
        found = done.scores.tasks["quiz"]["choice_logprob"].values[index]
        assert found == pytest.approx(float(shares[0]), abs=1e-3)


def test_an_answer_does_not_depend_on_who_shares_its_batch(family: Family) -> None:
    lengths = (4, 6, 7, 10, 11, 13, 20)  # below the bound, growing beyond it, and above
    prompts = [Prompt(tokens(length, 7), 4) for length in lengths]
    engine, whole = Engine(family), Tailoring.whole(BASE, 2)
    together = generate(engine, whole, prompts).answers
    alone = [generate(engine, whole, [prompt]).answers for prompt in prompts]
    assert together is not None
    assert [answer.tokens for answer in together] == [one[0].tokens for one in alone if one]
