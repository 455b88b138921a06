"""Packing: every passage once, nothing seen that must not be seen."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from gptailor.engine.batches import pack
from gptailor.tasks.task import Passage

TOKENS = st.lists(st.integers(0, 99), min_size=1, max_size=9).map(tuple)
PASSAGES = st.builds(Passage, TOKENS, st.lists(TOKENS, min_size=1, max_size=4).map(tuple))


@given(st.lists(PASSAGES, min_size=1, max_size=12), st.integers(8, 40), st.integers(8, 80))
def test_every_continuation_is_asked_once(
    passages: list[Passage], row_tokens: int, batch_tokens: int
) -> None:
    batches = pack(passages, row_tokens=row_tokens, batch_tokens=batch_tokens)
    asked = [
        (batch.numbers[passage], number) for batch in batches for passage, number in batch.spans
    ]
    wanted = [
        (i, j) for i, passage in enumerate(passages) for j in range(len(passage.continuations))
    ]
    assert sorted(asked) == wanted


@given(st.lists(PASSAGES, min_size=1, max_size=12))
def test_targets_are_predicted_from_the_tokens_before_them(passages: list[Passage]) -> None:
    for batch in pack(passages, row_tokens=24, batch_tokens=48):
        tokens, visible = batch.tokens.flatten(), batch.visible()
        width = batch.tokens.shape[1]
        for span, (index, number) in enumerate(batch.spans):
            passage = batch.passages[index]
            continuation = passage.continuations[number]
            here = batch.target_span == span
            assert batch.target_token[here].tolist() == list(continuation)
            for order, place in enumerate(batch.gather[batch.target_place[here]].tolist()):
                row, column = divmod(place, width)
                position = batch.positions[row]
                seen = visible[row, column] & (position <= position[column])
                order_seen = position[seen].argsort()
                read = tokens[row * width : (row + 1) * width][seen][order_seen].tolist()
                assert read == list(passage.context + continuation[:order])


def test_the_last_token_of_a_continuation_is_no_input() -> None:
    (batch,) = pack([Passage((1, 2, 3), ((4,), (5,), (6, 7)))])
    assert batch.tokens.tolist() == [[1, 2, 3, 6]]
    assert batch.positions.tolist() == [[0, 1, 2, 3]]


def test_a_long_passage_has_a_row_of_its_own() -> None:
    long = Passage(tuple(range(50)), ((1,),))
    short = Passage((1,), ((2,),))
    batches = pack([short, long, short], row_tokens=8, batch_tokens=16)
    assert [tuple(batch.tokens.shape) for batch in batches] == [(1, 50), (1, 2)]


def test_packing_is_the_same_every_time() -> None:
    passages = [Passage(tuple(range(n)), ((n,),)) for n in (5, 9, 2, 9, 7)]
    first, second = pack(passages, row_tokens=16), pack(passages, row_tokens=16)
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert ours.numbers == theirs.numbers
