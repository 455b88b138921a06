"""Which texts have an example that is kept for choosing or for the test, by words in common.

As training texts are cleaned of benchmarks (Brown et al. 2020, arXiv 2005.14165, appendix C): by
runs of 13 words. Runs that many examples have, such as an instruction, say nothing of one of them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

__all__ = ["HeldOutTexts"]

_RUN = 13  # words
_SHORTEST = 8  # words of an example that can be known at all
_COMMON = 0.01  # share of the examples that have a run which is no example's own
_WORD = re.compile(r"\w+")


class HeldOutTexts:
    """Finds examples in texts.

    Args:
        examples: The text of each example that is held out: its question and its answer.
    """

    def __init__(self, examples: Iterable[str]) -> None:
        found = [set(_runs(_words(each))) for each in examples]
        counts = Counter(run for runs in found for run in runs)
        most = max(2, _COMMON * len(found))  # two: the same example in two tasks
        self._own = {run for run, n in counts.items() if n <= most}
        self._lengths = sorted({len(run) for run in self._own})

    def found_in(self, text: str) -> bool:
        """Whether a text has a run of words that is an example's own."""
        words = _words(text)
        return any(run in self._own for length in self._lengths for run in _runs(words, length))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _runs(words: list[str], length: int = _RUN) -> Iterator[tuple[str, ...]]:
    """Runs of so many words; a text that has fewer is one run, if it is not too short."""
    length = min(length, len(words))
    if length >= _SHORTEST:
        for start in range(len(words) - length + 1):
            yield tuple(words[start : start + length])
