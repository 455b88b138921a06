"""What is written ends where it should, is counted, and fails with a reason."""

import dataclasses
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.engine import Engine
from gptailor.engine.generate import continuations, count_generation, generate
from gptailor.errors import TailoringError
from gptailor.tasks.task import Prompt

PROMPTS = [Prompt((5, 6, 7), 8), Prompt((9,), 8), Prompt((40, 41, 42, 43, 44, 45), 8)]


@pytest.fixture
def engine(family_of: Any) -> Engine:
    return Engine(family_of("llama"))


def whole(engine: Engine) -> Tailoring:
    return Tailoring.whole(BASE, engine.family.n_layers)


def test_an_answer_ends_with_the_first_stop_string_and_the_others_go_on(engine: Engine) -> None:
    free = generate(engine, whole(engine), PROMPTS).answers
    assert free is not None
    decode = engine.family.tokenizer.decode
    stop = decode([free[0].tokens[2]])
    stopped = [dataclasses.replace(prompt, until=("never", stop)) for prompt in PROMPTS]
    answers = generate(engine, whole(engine), stopped).answers
    assert answers is not None
    for answer, before in zip(answers, free, strict=True):
        n = next((n for n in range(1, 9) if stop in decode(before.tokens[:n])), len(before.tokens))
        assert answer.tokens == before.tokens[:n]
        assert answer.text == decode(before.tokens[:n], skip_special_tokens=True)
    assert len(answers[0].tokens) <= 3


def test_the_count_is_what_is_run_where_no_answer_ends_early(engine: Engine) -> None:
    tailoring = whole(engine)
    generated = generate(engine, tailoring, PROMPTS)
    assert generated.answers is not None
    assert {len(answer.tokens) for answer in generated.answers} == {8}
    counted = count_generation(engine, [tailoring], PROMPTS)
    assert counted.layer_tokens == generated.layer_tokens == 3 * (6 + 7) * engine.family.n_layers
    assert count_generation(engine, [tailoring] * 2, PROMPTS).layer_tokens == 2 * (
        counted.layer_tokens
    )


def test_members_in_files_write_the_same_and_their_weights_are_not_copied(engine: Engine) -> None:
    tailoring = whole(engine)
    limited = Engine(engine.family, member_bytes=10**6)
    assert generate(limited, tailoring, PROMPTS) == generate(engine, tailoring, PROMPTS)


def test_too_little_memory_halves_the_batch_and_one_prompt_alone_fails(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(engine, whole(engine), PROMPTS)
    own, most = LlamaForCausalLM.generate, [1]

    def starved(self: Any, input_ids: Any, **arguments: Any) -> Any:
        if len(input_ids) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(self, input_ids=input_ids, **arguments)

    monkeypatch.setattr(LlamaForCausalLM, "generate", starved)
    assert generate(engine, whole(engine), PROMPTS).answers == expected.answers
    most[0] = 0
    failed = generate(engine, whole(engine), PROMPTS)
    assert failed.answers is None
    assert failed.failure == "out of memory while generating after a prompt of 6 tokens"


def test_logits_that_are_no_numbers_are_a_failure_with_a_reason(engine: Engine) -> None:
    states = {name: dict(state) for name, state in engine.family.states.items()}
    norm = next(name for name in states[BASE] if name.endswith("model.norm.weight"))
    states[BASE][norm] = torch.full_like(states[BASE][norm], float("nan"))
    broken = Engine(dataclasses.replace(engine.family, states=states))
    generated = generate(broken, whole(broken), PROMPTS)
    assert generated.answers is None
    assert generated.failure == "non-finite logits while generating"
    with pytest.raises(TailoringError, match="can't write: non-finite logits"):
        continuations(broken, whole(broken), ["gold"])


def test_continuations_are_texts_with_their_tokens(engine: Engine) -> None:
    answers = continuations(engine, whole(engine), ["gold is", "the"], max_new_tokens=5)
    tokenizer = engine.family.tokenizer
    prompts = [Prompt(tuple(tokenizer.encode(text)), 5) for text in ("gold is", "the")]
    assert answers == list(generate(engine, whole(engine), prompts).answers or ())
    assert [len(answer.tokens) for answer in answers] == [5, 5]
    with pytest.raises(TailoringError, match="may have 257 tokens, and the model was made for 256"):
        continuations(
            engine, whole(engine), ["gold"], max_new_tokens=257 - len(tokenizer("gold").input_ids)
        )
