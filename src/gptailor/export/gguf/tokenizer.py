"""A tokenizer as llama.cpp reads it: tokens, their kinds, merges or scores, and the template.

llama.cpp does not run a tokenizer's own rules; it has some built in, by name. The name is found by
comparing the rules, never guessed: other rules are refused.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from gguf.constants import Keys
from transformers import PreTrainedTokenizerFast

from gptailor.errors import ExportError
from gptailor.files.yaml import read_yaml

__all__ = ["Vocabulary", "known_splits", "name_in_file", "vocabulary_of"]

Rules = Mapping[str, Any]
Step = tuple[str, Any]
Pair = tuple[str, ...]

_USUAL_SPLITS = (("Isolated", False), ("Removed", True))  # what the pattern matches is kept
_PHI3 = re.compile("phi-?3", re.IGNORECASE)
_PHI3_KEEPS = ("<unk>", "<s>", "<|endoftext|>")  # spaces behind them, and behind no others
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's character for a space


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer as a GGUF file describes it."""

    model: str  # "gpt2" for merges of bytes, "llama" for pieces with scores
    pre: str  # llama.cpp's name of the rules that split text before the merges
    tokens: tuple[str, ...]  # the text of each row of the embedding
    kinds: tuple[int, ...]  # of each token: normal, control, user defined, byte, unknown, unused
    merges: tuple[str, ...] = ()  # for "gpt2": pairs, in the order of merging
    scores: tuple[float, ...] = ()  # for "llama": the highest is merged first
    ids: Mapping[str, int] = field(default_factory=dict)  # of special tokens
    flags: Mapping[str, bool] = field(default_factory=dict)  # adds a beginning, end, leading space
    templates: Mapping[str, str] = field(default_factory=dict)  # chat templates by name

    def add_to(self, writer: GGUFWriter) -> None:
        """Add all of it to a file."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        for key, number in self.ids.items():
            writer.add_uint32(key, number)
        for key, value in self.flags.items():
            writer.add_bool(key, value)
        others = sorted(set(self.templates) - {"default"})
        for name in others:
            writer.add_string(
                Keys.Tokenizer.CHAT_TEMPLATE_N.format(name=name), self.templates[name]
            )
        if others:
            writer.add_array(Keys.Tokenizer.CHAT_TEMPLATES, others)
        if "default" in self.templates:
            writer.add_chat_template(self.templates["default"])


def vocabulary_of(tokenizer: Any, n_rows: int, ends: Sequence[int] = ()) -> Vocabulary:
    """Read a tokenizer's rules; refuse one that llama.cpp does not have built in.

    The embedding has `n_rows`, of which those without a token get a name. `ends` are further tokens
    that end an answer, from the generation config.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise _refusal(f"the tokenizer is a {type(tokenizer).__name__}, not a fast one")
    rules: Rules = json.loads(tokenizer.backend_tokenizer.to_str())
    model: Rules = rules["model"]
    if model.get("type") != "BPE":
        raise _refusal(f"the tokenizer is of type {model.get('type')}, not BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise _refusal(f"the tokenizer has {name} {model[name]!r}")
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    steps = _steps(rules.get("pre_tokenizer"))
    of = _of_bytes if any(kind == "bytes" for kind, _ in steps) else _of_pieces
    known = of(tokenizer, rules, merges, _tokens(tokenizer, n_rows))
    return dataclasses.replace(
        known,
        ids=_ids(tokenizer, n_rows, ends),
        flags={**known.flags, **_added(tokenizer)},
        templates=_templates(tokenizer),
    )


def name_in_file(name: str, tokenizer: Any) -> str:
    """A model's name, with Phi-3 in it where its tokenizer is like that of Phi-3, else without.

    By this name alone llama.cpp drops spaces behind special tokens; it can't read the file where
    Phi-3's tokens are missing.
    """
    drops = {str(token): token.rstrip for token in tokenizer.added_tokens_decoder.values()}
    there = {*_PHI3_KEEPS, "</s>"} <= tokenizer.get_vocab().keys()
    if there and all(drop == (token not in _PHI3_KEEPS) for token, drop in drops.items()):
        return name if _PHI3.search(name) else f"{name} (Phi-3)"
    return _PHI3.sub("Phi 3", name)


def _of_bytes(
    tokenizer: Any, rules: Rules, merges: Sequence[Pair], tokens: tuple[str, ...]
) -> Vocabulary:
    normalizer = rules.get("normalizer") or {"type": "NFC"}
    # llama.cpp has no NFC either; text is nearly always in that form
    if any(rule["type"] != "NFC" for rule in normalizer.get("normalizers", [normalizer])):
        raise _refusal(f"the tokenizer changes text by {json.dumps(normalizer)[:80]}")
    steps, ignore_merges = _steps(rules["pre_tokenizer"]), bool(rules["model"].get("ignore_merges"))
    pre = known_splits().get((steps, ignore_merges))
    if pre is None:
        shown = ", ".join(f"{kind} {value}" for kind, value in steps)
        raise _refusal(f"the tokenizer splits text by {shown[:160]}")
    kinds = _kinds(tokenizer, tokens, pieces=False)
    return Vocabulary("gpt2", pre, tokens, kinds, tuple(" ".join(pair) for pair in merges))


def _of_pieces(
    tokenizer: Any, rules: Rules, merges: Sequence[Pair], tokens: tuple[str, ...]
) -> Vocabulary:
    if not rules["model"].get("byte_fallback"):
        raise _refusal("the tokenizer works neither on bytes nor falls back to them")
    in_front = _space_in_front(rules, _steps(rules.get("pre_tokenizer")))
    kinds = _kinds(tokenizer, tokens, pieces=True)
    shown = tuple(
        token.replace(_SPACE, " ") if kind == TokenType.USER_DEFINED else token
        for token, kind in zip(tokens, kinds, strict=True)
    )
    scores = _scores(tokens, kinds, merges)
    flags = {Keys.Tokenizer.ADD_PREFIX: in_front}
    return Vocabulary("llama", "default", shown, kinds, scores=scores, flags=flags)


def _refusal(reason: str) -> ExportError:
    return ExportError(f"--format gguf: {reason}, which llama.cpp can't follow; use --format hf")


def _steps(rules: Rules | None) -> tuple[Step, ...]:
    """The steps that split text before the merges, as pairs that can be compared."""
    if rules is None:
        return ()
    if rules["type"] == "Sequence":
        return tuple(step for inner in rules["pretokenizers"] for step in _steps(inner))
    steps: tuple[Step, ...]
    match rules["type"]:
        case "ByteLevel" if not rules["add_prefix_space"]:
            steps = (("bytes", rules["use_regex"]),)
        case "Digits":
            steps = (("digits", rules["individual_digits"]),)
        case "Punctuation":
            steps = (("punctuation", rules["behavior"]),)
        case "Split" if (rules["behavior"], rules["invert"]) in _USUAL_SPLITS:
            steps = (("split", next(iter(rules["pattern"].values()))),)
        case "Split" if rules["pattern"] == {"String": " "}:
            steps = ()  # Gemma's: the normalizer has replaced all spaces before
        case "Metaspace" if not rules.get("split", True) and rules["replacement"] == _SPACE:
            steps = (("space", rules["prepend_scheme"] != "never"),)
        case other:
            raise _refusal(f"the tokenizer splits text by {other} {json.dumps(rules)[:80]}")
    return steps


@functools.cache
def known_splits() -> Mapping[tuple[tuple[Step, ...], bool], str]:
    """llama.cpp's names, by steps and by whether whole words are tried before the merges."""
    plain = read_yaml(Path(__file__).with_name("tokenizers.yaml"))
    known = {}
    for name, rules in plain.items():
        steps = [step for one in rules["steps"] for step in one.items()]
        joined = [(k, "|".join(v) if isinstance(v, list) else v) for k, v in steps]
        known[tuple(joined), rules["ignore_merges"]] = name
    return known


def _space_in_front(rules: Rules, steps: tuple[Step, ...]) -> bool:
    """Whether a tokenizer on pieces adds a leading space to text, its only change of it."""
    known = rules.get("normalizer") or {"type": "Sequence", "normalizers": []}
    inner = known.get("normalizers", [known])
    replaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepends = {"type": "Prepend", "prepend": _SPACE}
    if any(rule not in (replaces, prepends) for rule in inner):
        raise _refusal(f"the tokenizer changes text by {json.dumps(known)[:80]}")
    if any(kind != "space" for kind, _ in steps) or (replaces not in inner and not steps):
        raise _refusal("the tokenizer splits text, or does not mark spaces")
    return prepends in inner or any(bool(value) for _, value in steps)


def _tokens(tokenizer: Any, n_rows: int) -> tuple[str, ...]:
    """The text of every row; rows without a token are numbered."""
    tokens = [f"[PAD{number}]" for number in range(n_rows)]
    added = tokenizer.added_tokens_decoder
    for token, number in tokenizer.get_vocab().items():
        if number >= n_rows and number in added:
            continue  # the model has no row for it, so it can't be used
        if number >= n_rows:
            raise _refusal(f"token {token!r} is number {number} of an embedding of {n_rows} rows")
        tokens[number] = token
    if len(set(tokens)) != n_rows:
        twice = next(token for token in tokens if tokens.count(token) > 1)
        raise _refusal(f"token {twice!r} appears twice in the vocabulary")
    return tuple(tokens)


def _kinds(tokenizer: Any, tokens: Sequence[str], *, pieces: bool) -> tuple[int, ...]:
    named = set(tokenizer.get_vocab().values())
    kinds = [TokenType.NORMAL if i in named else TokenType.UNUSED for i in range(len(tokens))]
    if pieces:
        for number, token in enumerate(tokens):
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                kinds[number] = TokenType.BYTE
    for number, added in tokenizer.added_tokens_decoder.items():
        if number < len(kinds):
            kinds[number] = TokenType.CONTROL if added.special else TokenType.USER_DEFINED
    if pieces and tokenizer.unk_token_id in range(len(kinds)):
        kinds[tokenizer.unk_token_id] = TokenType.UNKNOWN
    return tuple(int(kind) for kind in kinds)


def _scores(
    tokens: Sequence[str], kinds: Sequence[int], pairs: Sequence[Pair]
) -> tuple[float, ...]:
    """The score of each piece: minus the rank of its merges.

    llama.cpp merges any two pieces that make a third, the one with the highest score first; the
    tokenizer merges pairs by their rank. Both give the same result if the merges of one piece are
    neighbours, and if every pair that makes a piece is among them; else it is refused.
    """
    rank: dict[str, int] = {}
    last = None
    for left, right in pairs:
        made = left + right
        if made != last and made in rank:
            raise _refusal(f"the tokenizer's merges that make {made!r} are not neighbours")
        rank.setdefault(made, len(rank))
        last = made
    known = set(pairs)
    normal = {t for t, kind in zip(tokens, kinds, strict=True) if kind == TokenType.NORMAL}
    for piece in normal:
        for cut in range(1, len(piece)):
            pair = (piece[:cut], piece[cut:])
            if pair not in known and pair[0] in normal and pair[1] in normal:
                raise _refusal(f"the tokenizer does not merge {pair[0]!r} and {pair[1]!r}")
    return tuple(-float(rank.get(token, len(rank) + i)) for i, token in enumerate(tokens))


def _ids(tokenizer: Any, n_rows: int, ends: Sequence[int]) -> dict[str, int]:
    named = {
        Keys.Tokenizer.BOS_ID: tokenizer.bos_token_id,
        Keys.Tokenizer.EOS_ID: tokenizer.eos_token_id,
        Keys.Tokenizer.UNK_ID: tokenizer.unk_token_id,
        Keys.Tokenizer.PAD_ID: tokenizer.pad_token_id,
    }
    others = [end for end in ends if end != tokenizer.eos_token_id]
    if others:
        named[Keys.Tokenizer.EOT_ID] = others[0]
    return {key: int(i) for key, i in named.items() if i is not None and 0 <= i < n_rows}


def _added(tokenizer: Any) -> dict[str, bool]:
    """Whether the tokenizer adds a beginning before a text and an end after it, nothing else."""
    plain = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a", add_special_tokens=True)
    n_before = next(
        (i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), len(whole)
    )
    before, after = whole[:n_before], whole[n_before + len(plain) :]
    if before not in ([], [tokenizer.bos_token_id]) or after not in ([], [tokenizer.eos_token_id]):
        raise _refusal(f"the tokenizer puts tokens {before} before and {after} behind a text")
    return {Keys.Tokenizer.ADD_BOS: bool(before), Keys.Tokenizer.ADD_EOS: bool(after)}


def _templates(tokenizer: Any) -> dict[str, str]:
    known = tokenizer.chat_template
    if not known:
        return {}
    return dict(known) if isinstance(known, dict) else {"default": str(known)}
