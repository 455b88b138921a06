"""Calibration rows: token ids of texts that baselines and repairs take their statistics from."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gptailor.errors import ConfigError
from gptailor.files.safe_read import read_text
from gptailor.tasks.encoding import beyond
from gptailor.tasks.gold import gold_passages
from gptailor.tasks.held_out import HeldOutTexts
from gptailor.tasks.task import Task

__all__ = ["Calibration", "calibration_of_tasks", "calibration_of_texts", "texts_in_turns"]

Row = tuple[int, ...]

_MOST_BYTES = 2**30
_SHORTEST = 3  # tokens of a row
_JSON_LINES = (".jsonl", ".ndjson")
_BLANK_LINES = re.compile(r"\n[ \t\r]*\n")


class _NoRowsError(ConfigError):
    """No text is long enough."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rows of three or more token ids, in a drawn order.

    The last of a row is only predicted, and the first has a stream unlike all others.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()  # for the user

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows."""
        return sum(map(len, self.rows))

    @property
    def digest(self) -> str:
        """Sixteen hex digits over every token id, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(np.array([len(row), *row], dtype="<i8").tobytes())
        return digest.hexdigest()[:16]

    def first(self, n_tokens: int) -> "Calibration":
        """The first rows, of at most `n_tokens` tokens but at least one row."""
        counts = np.cumsum([len(row) for row in self.rows])
        n_rows = max(1, int(np.searchsorted(counts, n_tokens, side="right")))
        return Calibration(self.rows[:n_rows])


def calibration_of_tasks(
    tasks: Sequence[Task], *, n_tokens: int, max_length: int, seed: int = 0
) -> Calibration:
    """Take the contexts and gold answers of examples, as many of each task as of the others.

    Args:
        tasks: With the examples of the search split.
        n_tokens: The most tokens in all; fewer where the examples have fewer.
        max_length: The most tokens of a row; a longer one is divided.
        seed: Of the order.
    """
    rounds = max(task.n_examples for task in tasks)
    texts = (
        _gold_tokens(task, example)
        for example in range(rounds)
        for task in tasks
        if example < task.n_examples
    )
    names = ", ".join(task.name for task in tasks)
    return _calibration(texts, n_tokens, max_length, seed, f"the search examples of {names}")


def calibration_of_texts(  # noqa: PLR0913  # a section of the config, and what it may not have
    paths: Sequence[Path],
    tokenizer: Any,
    *,
    n_known: int,
    n_tokens: int,
    max_length: int,
    seed: int = 0,
    held_out: Sequence[Task] = (),
) -> Calibration:
    """Tokenise files of texts, but none that has a held-out example.

    A file is JSON lines with a key ``text``, or plain text whose paragraphs are divided by blank
    lines; a text at a time is taken from each file in turn.

    Args:
        paths: The files.
        tokenizer: The family's.
        n_known: Rows of the model's embedding: tokens that it knows.
        n_tokens: The most tokens in all.
        max_length: The most tokens of a row.
        seed: Of the order.
        held_out: With the examples for choosing and for the test.

    Raises:
        ConfigError: A file can't be read or has no text, or a text has a token that the model
            doesn't know.
    """
    names = ", ".join(path.name for path in paths)
    examples = HeldOutTexts(
        tokenizer.decode(_gold_tokens(task, number), skip_special_tokens=True)
        for task in held_out
        for number in range(task.n_examples)
    )
    n_read, n_left_out = 0, 0

    def usable(text: str) -> bool:
        nonlocal n_read, n_left_out
        found = examples.found_in(text)
        n_read += 1
        n_left_out += found
        return not found

    def tokens_of(text: str) -> Row:
        tokens = tuple(tokenizer(text)["input_ids"])
        if why := beyond(tokens, tokenizer, n_known, f", which a text of {names} has,"):
            raise ConfigError(
                f"calibration: {why}; take such texts out, or use the base's tokenizer"
            )
        return tokens

    tokens = map(tokens_of, filter(usable, texts_in_turns(paths, seed)))
    try:
        found = _calibration(tokens, n_tokens, max_length, seed, names)
    except _NoRowsError:
        if not n_left_out:
            raise
        raise ConfigError(
            f"calibration: {n_left_out} of {n_read} texts of {names} have selection or test "
            "examples, and the others have no row of three tokens; name other texts, or divide "
            "these by blank lines or into JSON lines, for a text is left out whole"
        ) from None
    if not n_left_out:
        return found
    note = f"calibration: {n_left_out} texts of {names} have selection or test examples: left out"
    return replace(found, notes=(note,))


def texts_in_turns(paths: Sequence[Path], seed: int) -> Iterator[str]:
    """The texts of files in a drawn order, one from each file in turn; all files are read first.

    Raises:
        ConfigError: Files can't be read or have no text, a sentence each.
    """
    rng = np.random.default_rng(seed)
    texts, problems = list[list[str]](), list[str]()
    for path in paths:
        try:
            texts.append(_texts(path))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    orders = [rng.permutation(len(found)) for found in texts]
    return (
        found[order[turn]]
        for turn in range(max(map(len, texts)))
        for found, order in zip(texts, orders, strict=True)
        if turn < len(found)
    )


def _calibration(
    texts: Iterable[Row], n_tokens: int, max_length: int, seed: int, source: str
) -> Calibration:
    """Divide texts into rows until there are enough tokens, and shuffle the rows.

    `source` is what an error calls the texts.
    """
    rows: list[Row] = []
    left = n_tokens
    for tokens in texts:
        for start in range(0, len(tokens), max_length):
            row = tokens[start : start + min(max_length, left)]
            if len(row) >= _SHORTEST and left >= _SHORTEST:
                rows.append(row)
                left -= len(row)
        if left < _SHORTEST:
            break
    if not rows:
        raise _NoRowsError(f"calibration: {source} has no row of three tokens; name other texts")
    order = np.random.default_rng(seed).permutation(len(rows))
    return Calibration(tuple(rows[index] for index in order))


def _gold_tokens(task: Task, example: int) -> Row:
    """The context and the first gold answer of an example, or its one text."""
    one = task.examples[example]
    passages = gold_passages(one)
    if not passages:
        return () if one.prompt is None else one.prompt.tokens
    if len(passages) > 1:  # windows of one text
        return tuple(itertools.chain.from_iterable(p.continuations[0] for p in passages))
    return passages[0].context + passages[0].continuations[0]


def _texts(path: Path) -> list[str]:
    if path.suffix.lower() == ".json":
        raise ConfigError(f"{path}: texts are JSON lines (.jsonl) or plain text; name such a file")
    content = read_text(path, most=_MOST_BYTES, noun="file of texts", error_type=ConfigError)
    is_json = path.suffix.lower() in _JSON_LINES
    found = list(_json_texts(path, content) if is_json else _BLANK_LINES.split(content))
    texts = [text for text in found if text.strip()]
    if not texts:
        raise ConfigError(f"{path}: has no text; name another file")
    return texts


def _json_texts(path: Path, content: str) -> Iterator[str]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            plain = json.loads(line)
        except (ValueError, RecursionError):
            plain = None
        if not isinstance(plain, dict) or not isinstance(plain.get("text"), str):
            raise ConfigError(f"{path}, line {number}: must be a JSON object with a text 'text'")
        if not _is_unicode(plain["text"]):
            raise ConfigError(
                f"{path}, line {number}: 'text' has half of a surrogate pair, which is no "
                "character; remove it"
            )
        yield plain["text"]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
