"""The exceptions of this package, drawn as a tree.

    GPTailorError
    └── UserError             the input is invalid: one sentence, exit code 2
        ├── ConfigError       a key of tailor.yaml, or a command line option
        ├── FamilyError       a member: file, tensor, shape, vocabulary
        ├── TailoringError    a tailoring, or a tailoring.yaml
        ├── MergeError        a merge method's name, parameters or tensors
        ├── TaskError         a task, its examples or its metric
        ├── RecordError       a run's folder or its record
        └── ExportError       what can't be written as asked

A `UserError` may carry several problems; each is one sentence.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

__all__ = [
    "ConfigError",
    "ExportError",
    "FamilyError",
    "GPTailorError",
    "MergeError",
    "RecordError",
    "TailoringError",
    "TaskError",
    "UserError",
    "is_out_of_memory",
    "listed",
    "naming",
    "one_line",
    "unknown",
]

# torch's allocators; the loader of shared libraries; oneDNN, which names what it had no room for
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to map segment",
    "could not create a memory",
    "could not create a primitive",
    "could not execute a primitive",
)
_UNSUPPORTED = "could not create a primitive descriptor"  # oneDNN has no such product


class GPTailorError(Exception):
    """Every error this package raises on purpose."""


class UserError(GPTailorError):
    """The user's input is invalid; `problems` are sentences that say what to do.

    Args:
        problems: One sentence, or several when all problems of one input are reported at once.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        sentences = (problems,) if isinstance(problems, str) else tuple(problems)
        self.problems: tuple[str, ...] = tuple(map(one_line, sentences))
        super().__init__("\n".join(self.problems))


class ConfigError(UserError):
    """A config or a command line option is invalid."""


class FamilyError(UserError):
    """A member can't be read, or does not fit the base."""


class TailoringError(UserError):
    """A tailoring can't be read, or does not fit the family."""


class MergeError(UserError):
    """A merge method is unknown, or its parameters or tensors are invalid."""


class TaskError(UserError):
    """A task can't be read, has too few examples, or lacks the metric asked for."""


class RecordError(UserError):
    """A run's folder or its record can't be used."""


class ExportError(UserError):
    """A tailoring can't be written in the way asked for."""


def unknown(noun: str, name: object, known: Iterable[str]) -> str:
    """Say that a name is not known, and which one may have been meant.

    Example:
        >>> unknown("searcher", "evolutoin", ["evolution", "random"])
        "unknown searcher 'evolutoin'; did you mean 'evolution'? known: evolution, random"
    """
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {noun} {name!r}; {hint}known: {', '.join(names)}"


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Put a model's name or file before what is wrong with its tailoring."""
    try:
        yield
    except TailoringError as error:
        raise TailoringError([f"{model}: {problem}" for problem in error.problems]) from None


def listed(items: Sequence[object], most: int = 5) -> str:
    """The first few of many items, and how many more there are."""
    more = f", and {len(items) - most:,} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, of the machine's or of a device's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    message = str(error)
    if not isinstance(error, RuntimeError | ImportError) or _UNSUPPORTED in message:
        return False
    return any(words in message for words in _WORDS)


def one_line(sentence: str) -> str:
    """Spell out what is no visible character: a name may hold a line's end, or colour a screen."""
    if sentence.isprintable():
        return sentence
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in sentence
    )
