"""Calibration rows: search examples with their gold answers, or texts of files."""

from pathlib import Path
from typing import Any

import pytest

from gptailor.errors import ConfigError
from gptailor.tasks.calibration import Calibration, calibration_of_tasks, calibration_of_texts
from gptailor.tasks.multiple_choice import ChoiceExample
from gptailor.tasks.task import Passage, Task, TextSize
from gptailor.tasks.text import RollingExample

SIZE = TextSize(1, 4, 1, 4)


def choice(number: int) -> ChoiceExample:
    """Three choices of which two share a context, so that passages are in another order."""
    passages = (
        Passage((number, 1), ((10, number), (11, number))),
        Passage((number, 2), ((12, number),)),
    )
    return ChoiceExample(passages, ((0, 0), (1, 0), (0, 1)), (number % 3,), (SIZE,) * 3, SIZE)


def text(number: int) -> RollingExample:
    """A text of two windows."""
    windows = Passage((0,), ((number, 20),)), Passage((20,), ((21, 22),))
    return RollingExample(windows, {"bits_per_byte": 4}, (SIZE,))


def task(name: str, examples: list[Any]) -> Task:
    return Task(name, ("acc",), tuple(examples), tuple((name, n) for n in range(len(examples))))


def gold(number: int) -> tuple[int, ...]:
    """The context and the gold choice, by hand."""
    context, continuation = [(1, 10), (2, 12), (1, 11)][number % 3]
    return number, context, continuation, number


def test_rows_are_contexts_with_gold_answers_and_whole_texts_of_each_task_in_turn() -> None:
    tasks = [task("which", [choice(n) for n in range(30, 36)]), task("texts", [text(7), text(8)])]
    found = calibration_of_tasks(tasks, n_tokens=10_000, max_length=128)
    wanted = [gold(30), (7, 20, 21, 22), gold(31), (8, 20, 21, 22), *map(gold, range(32, 36))]
    assert sorted(found.rows) == sorted(wanted)
    assert list(found.rows) != wanted  # shuffled
    few = calibration_of_tasks(tasks, n_tokens=16, max_length=128)
    assert sorted(few.rows) == sorted(wanted[:4])
    again, other = (
        calibration_of_tasks(tasks, n_tokens=32, max_length=128, seed=s) for s in (0, 1)
    )
    assert (again.rows == found.rows, other.rows == found.rows) == (True, False)
    assert (again.digest == found.digest, other.digest == found.digest) == (True, False)


def test_long_texts_are_divided_and_no_more_tokens_are_taken_than_asked() -> None:
    windows = (Passage((0,), (tuple(range(1, 11)),)), Passage((5,), ((11, 12),)))
    examples = [RollingExample(windows, {"bits_per_byte": 4}, (SIZE,))]
    found = calibration_of_tasks([task("texts", examples)], n_tokens=10_000, max_length=5)
    assert sorted(found.rows) == [(1, 2, 3, 4, 5), (6, 7, 8, 9, 10)]
    found = calibration_of_tasks([task("texts", examples)], n_tokens=8, max_length=5)
    assert sorted(found.rows) == [(1, 2, 3, 4, 5), (6, 7, 8)]


def test_the_first_rows_are_whole_and_one_at_least() -> None:
    rows = Calibration(((1, 2, 3), (4, 5), (6, 7, 8, 9)))
    assert [len(rows.first(n).rows) for n in (1, 3, 4, 5, 8, 9, 99)] == [1, 1, 1, 2, 2, 3, 3]
    assert rows.n_tokens == 9


def test_texts_of_files_are_tokenised_in_turn(tmp_path: Path, tiny_tokenizer: Any) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "gold iron"}\n\n{"text": "Rome and"}\n', "utf-8")
    (tmp_path / "b.txt").write_text("two and three\n\nmake\nfive\n\n\n\n", "utf-8")
    paths = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    found = calibration_of_texts(paths, tiny_tokenizer, n_known=10**6, n_tokens=1000, max_length=64)
    wanted = ["gold iron", "Rome and", "two and three", "make\nfive"]
    assert sorted(map(tiny_tokenizer.decode, found.rows)) == sorted(wanted)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "has no text"),
        ("\n \n", "has no text"),
        ('{"text": "ok"}\n{"txt": "x"}\n', "line 2: must be a JSON object with a text 'text'"),
        ("{\n", "line 1: must be a JSON object"),
        ('{"text": 5}\n', "line 1: must be a JSON object"),
        ('{"text": "a"}\n', "has no row of three tokens"),
        ('{"text": "a \\ud800 b"}\n', "line 1: 'text' has half of a surrogate pair"),
        ('{"text": ' + "[" * 100_000, "line 1: must be a JSON object"),
        (None, "no such file"),
    ],
)
def test_a_file_without_usable_texts_is_refused_in_one_sentence(
    content: str | None, told: str, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    path = tmp_path / "texts.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=told) as caught:
        calibration_of_texts([path], tiny_tokenizer, n_known=10**6, n_tokens=100, max_length=16)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("between", ["\n\n", "\r\n\r\n", "\n \t\n", "\n\n\n"], ids=repr)
def test_blank_lines_of_any_system_divide_paragraphs(
    between: str, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(between.join(["a b c d", "e f g h", "i j k l"]).encode())
    found = calibration_of_texts([path], tiny_tokenizer, n_known=10**6, n_tokens=100, max_length=16)
    assert len(found.rows) == 3


def test_a_token_that_the_model_does_not_know_is_refused(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("a b c d")
    with pytest.raises(ConfigError, match=r"token \d+ .* of texts.txt has, has no row"):
        calibration_of_texts([path], tiny_tokenizer, n_known=4, n_tokens=100, max_length=16)


def test_texts_with_held_out_examples_are_left_out(tmp_path: Path, tiny_tokenizer: Any) -> None:
    ask = "please answer this question as well as you can and say nothing else at all: "
    stories = [f"{ask}who of the {n} sisters of {n + 1} kings went to {n} towns" for n in (2, 9)]
    tokens = [tuple(tiny_tokenizer(each)["input_ids"]) for each in stories + 3 * [ask]]
    windows = [(Passage((), (each,)),) for each in tokens]
    kept = [RollingExample(each, {"bits_per_byte": 4}, (SIZE,)) for each in windows]
    texts = tmp_path / "texts.txt"
    others = [f"{ask} where is the {n}th of many houses by the sea" for n in range(5)]
    near = f"Earlier. {stories[1].upper()}? Later."
    texts.write_text("\n\n".join([*others, stories[0], near]), encoding="utf-8")
    limits = {"n_known": 10**6, "n_tokens": 10**6, "max_length": 10**6}
    plain = calibration_of_texts([texts], tiny_tokenizer, **limits)
    assert (len(plain.rows), plain.notes) == (7, ())
    held_out = [task("stories", kept)]
    found = calibration_of_texts([texts], tiny_tokenizer, **limits, held_out=held_out)
    assert {tiny_tokenizer.decode(row) for row in found.rows} == {
        tiny_tokenizer.decode(tiny_tokenizer(each)["input_ids"]) for each in others
    }
    assert found.notes == (
        "calibration: 2 texts of texts.txt have selection or test examples: left out",
    )
    texts.write_text("\n\n".join([stories[0], "a", near]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"2 of 3 texts of texts\.txt have selection or test ex"):
        calibration_of_texts([texts], tiny_tokenizer, **limits, held_out=held_out)
    # another fault is not hidden by it
    texts.write_text("\n\n".join([stories[0], stories[0], "a b c d"]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"token \d+ .* of texts.txt has, has no row"):
        calibration_of_texts([texts], tiny_tokenizer, **limits | {"n_known": 4}, held_out=held_out)
