"""Text to token ids, exactly as lm-eval's Hugging Face backend encodes it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gptailor.errors import TaskError

__all__ = ["Encoder", "beyond", "rolling_windows"]

Tokens = tuple[int, ...]

_MAX_CONTEXT = 200_000  # characters; some 50,000 tokens


@dataclass(frozen=True)
class Encoder:
    """Encode contexts, continuations and whole texts for one tokenizer."""

    tokenizer: Any
    max_length: int  # tokens that a model is fed at once; what is longer loses its beginning
    prefix: int  # the token put before a text that has no context
    prefix_text: str  # the same as text: a string that starts with it gets no special tokens
    n_tokens: int | None = None  # rows of the model's embedding, if known
    long: set[str] = field(default_factory=set, compare=False)  # what did not fit in one piece

    @classmethod
    def of(cls, tokenizer: Any, max_length: int, n_tokens: int | None = None) -> "Encoder":
        """Prefix texts by the beginning-of-sequence token, or else the end-of-sequence token."""
        if max_length < 2:
            raise TaskError(f"max_length is {max_length}; a model must be fed 2 tokens at least")
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        prefix = eos if bos is None else bos
        if prefix is None:
            raise TaskError(
                "the tokenizer has neither a beginning-of-sequence nor an end-of-sequence token; "
                "one is needed before a text that has no context"
            )
        return cls(tokenizer, max_length, int(prefix), str(tokenizer.decode(prefix)), n_tokens)

    def pairs(self, requests: Sequence[tuple[str, str]]) -> list[tuple[Tokens, Tokens]]:
        """Encode continuations after their contexts; a context loses what does not fit.

        Spaces at a context's end move to the continuation, which is whatever tokens follow the
        context's own.
        """
        if requests:
            _refuse_long(requests[0][0])
        known: dict[str, list[int]] = {}  # the choices of a question share its context
        return [self._pair(context, continuation, known) for context, continuation in requests]

    @property
    def end(self) -> str:
        """The end-of-sequence token as text; empty if there is none."""
        token = self.tokenizer.eos_token_id
        return "" if token is None else str(self.tokenizer.decode(token))

    def prompt(self, context: str, max_new_tokens: int) -> Tokens:
        """Encode what is to be gone on from; it loses its beginning where the answer needs room."""
        room = self.max_length - max_new_tokens
        if room < 1:
            raise TaskError(
                f"generation_kwargs: max_gen_toks: is {max_new_tokens}, and a model is fed "
                f"{self.max_length} tokens at once (engine.max_length); ask for fewer, or feed more"
            )
        _refuse_long(context)
        tokens = self._encode(context)
        if len(tokens) > room:
            self.long.add(context)
        return tuple(tokens[-room:]) or (self.prefix,)

    def windows(self, text: str) -> list[tuple[Tokens, Tokens]]:
        """Encode a whole text as contexts and continuations; each token is scored once."""
        tokens = self._encode(text)
        if len(tokens) > self.max_length:
            self.long.add(text)
        return list(rolling_windows(tokens, self.prefix, self.max_length))

    def _pair(
        self, context: str, continuation: str, known: dict[str, list[int]]
    ) -> tuple[Tokens, Tokens]:
        if context == "":
            encoded = self._encode(continuation, special=False)
            before = [self.prefix]
            if encoded and encoded[0] == self.prefix:
                before, encoded = encoded[:1], encoded[1:]
        else:
            stripped = context.rstrip()
            continuation = context[len(stripped) :] + continuation
            if stripped not in known:
                known[stripped] = self._encode(stripped)
            before = known[stripped]
            encoded = self._encode(stripped + continuation)[len(before) :]
        if not encoded:
            raise TaskError(f"the continuation {continuation!r} has no tokens of its own")
        if not before:
            raise TaskError("the context is nothing but white space, and has no tokens")
        if len(encoded) > self.max_length:
            raise TaskError(
                f"the continuation has {len(encoded)} tokens, more than the {self.max_length} "
                "that a model is fed at once; shorten it, or raise max_length"
            )
        room = self.max_length + 1 - len(encoded)
        if len(before) > room:
            self.long.add(context)
        return tuple(before[-room:]), tuple(encoded)

    def _encode(self, text: str, *, special: bool | None = None) -> list[int]:
        if special is None and text.startswith(self.prefix_text):
            special = False
        options = {} if special is None else {"add_special_tokens": special}
        tokens = list(self.tokenizer.encode(text, **options))
        if self.n_tokens is not None and (why := beyond(tokens, self.tokenizer, self.n_tokens)):
            raise TaskError(why)
        return tokens


def beyond(tokens: Sequence[int], tokenizer: Any, n_known: int, whose: str = "") -> str | None:
    """Say which token the model's embedding of `n_known` rows has no row for; None if it has all.

    `whose` follows the token in the sentence.
    """
    if max(tokens, default=0) < n_known:
        return None
    first = next(token for token in tokens if token >= n_known)
    return (
        f"the tokenizer's token {first} ({tokenizer.decode(first)!r}){whose} has no row in the "
        f"model's embedding of {n_known}"
    )


def _refuse_long(context: str) -> None:
    if len(context) > _MAX_CONTEXT:
        raise TaskError(
            f"its context has {len(context):,} characters; at most {_MAX_CONTEXT:,} are "
            "read, of which a model sees the last"
        )


def rolling_windows(
    tokens: Sequence[int], prefix: int, max_length: int
) -> Iterator[tuple[Tokens, Tokens]]:
    """Cut a text into windows of `max_length` tokens, each token predicted once.

    No tokens make no window. The first window starts with `prefix`; each later one sees a single
    token of context, except the last, which is filled up with context. (lm-eval's windows at
    context length 1.)

    Example:
        >>> list(rolling_windows([1, 2, 3, 4, 5], prefix=0, max_length=3))
        [((0,), (1, 2, 3)), ((2, 3), (4, 5))]
    """
    first = tuple(tokens[:max_length])
    if first:
        yield (prefix,), first
    done = len(first)
    while done < len(tokens):
        end = min(done + max_length, len(tokens))
        yield tuple(tokens[end - max_length - 1 : done]), tuple(tokens[done:end])
        done = end
