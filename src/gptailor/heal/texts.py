"""Rows of token ids to train on, and rows of other texts to measure on."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptailor.errors import ConfigError
from gptailor.tasks.calibration import Calibration, texts_in_turns

__all__ = ["HealingTexts", "Row", "read_healing_texts"]

_HELD_OUT = 16  # one token in so many is of a text that is not trained on
_MOST_HELD_OUT = 16_384  # tokens; more would only take time


@dataclass(frozen=True, slots=True)
class Row:
    """Whole texts one after the other, the first and the last perhaps in part."""

    ids: tuple[int, ...]
    # of each token in its text's part in this row, by which no text sees another
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class HealingTexts:
    """Rows of equal length; no text is in both."""

    train: tuple[Row, ...]
    held_out: tuple[Row, ...]
    files: dict[str, str]  # name of a file to the digest of its bytes

    @property
    def digest(self) -> str:
        """Sixteen hex digits over every token."""
        return Calibration(tuple(row.ids for row in (*self.train, *self.held_out))).digest


def read_healing_texts(
    paths: Sequence[Path], tokenizer: Any, *, n_tokens: int, length: int, seed: int
) -> HealingTexts:
    """Read files as `calibration_of_texts` does, and pack their texts into full rows.

    Each text is closed by the end-of-text token. Texts that are equal count once, so none that is
    trained on is measured on.

    Args:
        paths: JSON lines with a key ``text``, or plain text with blank lines between paragraphs.
        tokenizer: The model's.
        n_tokens: Most tokens to train on in one pass over the texts.
        length: Tokens of a row.
        seed: Of the order.

    Raises:
        ConfigError: A file can't be read, or there is not a row to train and to measure on.
    """
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    texts = dict.fromkeys(texts_in_turns(paths, seed))
    tokens = ((*tokenizer(text, add_special_tokens=False)["input_ids"], *end) for text in texts)
    held_out = _packed(tokens, max(length, min(n_tokens // _HELD_OUT, _MOST_HELD_OUT)), length)
    train = _packed(tokens, n_tokens, length)
    if not train:
        names = ", ".join(path.name for path in paths)
        raise ConfigError(
            f"--texts: {names} have too few tokens for a row of {length} to train on and another "
            "to measure on; give more texts, or a smaller --length"
        )
    return HealingTexts(train, held_out, {path.name: _digest(path) for path in paths})


def _packed(texts: Iterator[Sequence[int]], n_tokens: int, length: int) -> tuple[Row, ...]:
    """Whole texts one after the other, of `n_tokens` or just more, cut into full rows."""
    ids, positions = list[int](), list[int]()
    for tokens in texts:
        ids += tokens
        positions += range(len(tokens))
        if len(ids) >= n_tokens:
            break
    n_rows = min(len(ids), max(n_tokens, length)) // length
    cuts = [slice(row * length, (row + 1) * length) for row in range(n_rows)]
    return tuple(_row(ids[cut], positions[cut]) for cut in cuts)


def _row(ids: Sequence[int], positions: Sequence[int]) -> Row:
    """A row; the text that goes on in it counts from 0, to stay within the model's own length."""
    begun = positions.index(0) if 0 in positions else len(positions)
    return Row(tuple(ids), (*range(begun), *positions[begun:]))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
