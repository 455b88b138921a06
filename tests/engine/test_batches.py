"""Packing: every passage once, nothing seen that must not be seen, nothing twice in a row."""

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
        tokens, visible = batch.tokens.flatten(), batch.visible(torch.device("cpu"))
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
    short, other = Passage((60,), ((2,),)), Passage((61,), ((2,),))
    batches = pack([short, long, other], row_tokens=8, batch_tokens=16)
    assert [tuple(batch.tokens.shape) for batch in batches] == [(1, 50), (1, 2)]


@given(st.lists(PASSAGES, min_size=1, max_size=12))
def test_a_row_holds_every_beginning_once(passages: list[Passage]) -> None:
    (batch,) = pack(passages, row_tokens=4096, batch_tokens=4096)
    beginnings = {
        (passage.context + continuation[:-1])[:n]
        for passage in passages
        for continuation in passage.continuations
        for n in range(1, len(passage.context + continuation))
    }
    assert batch.tokens.shape == (1, len(beginnings))
    assert (batch.ends > 0).all()  # no padding


def test_questions_share_their_instructions_and_choices_their_beginnings() -> None:
    first = Passage((1, 2, 3), ((7, 8, 9), (7, 8, 5)))
    second = Passage((1, 2, 4), ((7, 8, 9),))
    (batch,) = pack([first, second])
    assert batch.tokens.tolist() == [[1, 2, 3, 7, 8, 4, 7, 8]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]
    assert batch.ends.tolist() == [[8, 8, 5, 5, 5, 8, 8, 8]]


@given(st.lists(PASSAGES, min_size=1, max_size=30), st.integers(8, 60), st.integers(20, 120))
def test_rows_and_batches_keep_their_room(
    passages: list[Passage], row_tokens: int, batch_tokens: int
) -> None:
    for batch in pack(passages, row_tokens=row_tokens, batch_tokens=batch_tokens):
        rows, width = batch.tokens.shape
        longest = max(pack([passage])[0].tokens.shape[1] for passage in batch.passages)
        assert width <= max(row_tokens, longest)
        assert batch.n_tokens <= batch_tokens or rows == 1


@given(st.lists(PASSAGES, min_size=1, max_size=12))
def test_halves_ask_what_the_whole_asked_in_its_order(passages: list[Passage]) -> None:
    (batch,) = pack(passages, row_tokens=4096, batch_tokens=4096)
    halves = batch.split()
    assert [n for half in halves for n in half.numbers] == list(batch.numbers)
    tokens = [token for half in halves for token in half.target_token.tolist()]
    assert tokens == batch.target_token.tolist()


def test_packing_is_the_same_every_time() -> None:
    passages = [Passage(tuple(range(n)), ((n,),)) for n in (5, 9, 2, 9, 7)]
    first, second = pack(passages, row_tokens=16), pack(passages, row_tokens=16)
    for ours, theirs in zip(first, second, strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert ours.numbers == theirs.numbers
