"""A tokenizer's rules are read, never guessed: what llama.cpp has no name for is refused."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from gguf import TokenType
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from gptailor.errors import ExportError
from gptailor.export.gguf.tokenizer import name_in_file, vocabulary_of

Change = Callable[[dict[str, Any]], None]


def changed(tokenizer: PreTrainedTokenizerFast, change: Change) -> PreTrainedTokenizerFast:
    """The same tokenizer with other rules."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    change(rules)
    core = Tokenizer.from_str(json.dumps(rules))
    other = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    other.chat_template = copy.copy(tokenizer.chat_template)
    return other


def split(pattern: str, **fields: Any) -> dict[str, Any]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [{**step, **fields}, {**plain, "use_regex": False}]
    return {"type": "Sequence", "pretokenizers": steps}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r["pre_tokenizer"].update(add_prefix_space=True), "splits text by ByteLevel"),
        (lambda r: r.update(pre_tokenizer=split("[a-z]+")), r"splits text by split \[a-z\]"),
        (lambda r: r.update(pre_tokenizer=split("x", behavior="MergedWithNext")), "by Split"),
        (lambda r: r.update(pre_tokenizer={"type": "Whitespace"}), "splits text by Whitespace"),
        (lambda r: r.update(pre_tokenizer=None), "works neither on bytes nor falls back"),
        (lambda r: r.update(normalizer={"type": "Lowercase"}), "changes text by .*Lowercase"),
        (lambda r: r["model"].update(ignore_merges=True), "splits text by bytes True"),
        (lambda r: r["model"].update(dropout=0.1), "has dropout 0.1"),
        (lambda r: r["model"].update(end_of_word_suffix="</w>"), "has end_of_word_suffix"),
        (lambda r: r.update(post_processor={"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<pad>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<pad>": {"id": "<pad>", "ids": [2], "tokens": ["<pad>"]}}}),
         r"puts tokens \[2\] before"),
    ],
)  # fmt: skip
def test_rules_without_a_name_are_refused(
    change: Change, told: str, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    with pytest.raises(ExportError, match=told) as error:
        vocabulary_of(changed(tiny_tokenizer, change), 320)
    assert error.value.problems[0].endswith("which llama.cpp can't follow; use --format hf")


def test_other_kinds_of_tokenizer_are_refused(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ExportError, match="not a fast one"):
        vocabulary_of(object(), 320)

    def words(rules: dict[str, Any]) -> None:
        vocab = rules["model"]["vocab"]
        rules["model"] = {"type": "WordLevel", "vocab": vocab, "unk_token": "<s>"}

    with pytest.raises(ExportError, match="is of type WordLevel, not BPE"):
        vocabulary_of(changed(tiny_tokenizer, words), 320)


def test_rows_without_a_token_are_filled_and_tokens_without_a_row_left_out(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    padded = vocabulary_of(tiny_tokenizer, 324)
    assert padded.tokens[320:] == ("[PAD320]", "[PAD321]", "[PAD322]", "[PAD323]")
    assert set(padded.kinds[320:]) == {TokenType.UNUSED}
    more = changed(tiny_tokenizer, lambda rules: None)
    more.add_tokens(["<tool>"])
    more.add_special_tokens({"unk_token": "<odd>"})
    whole = vocabulary_of(more, 322)
    assert whole.tokens[320:] == ("<tool>", "<odd>")
    assert whole.kinds[320:] == (TokenType.USER_DEFINED, TokenType.CONTROL)
    short = vocabulary_of(more, 320)
    assert len(short.tokens) == len(short.kinds) == 320
    assert "tokenizer.ggml.unknown_token_id" not in short.ids
    with pytest.raises(ExportError, match="number 319 of an embedding of 319 rows"):
        vocabulary_of(tiny_tokenizer, 319)


def test_templates_and_ends_are_carried(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    other = changed(tiny_tokenizer, lambda rules: None)
    other.chat_template = {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    known = vocabulary_of(other, 320, (1, 7))
    assert known.templates == {"default": "{{ 1 }}", "tool_use": "{{ 2 }}"}
    assert known.ids["tokenizer.ggml.eos_token_id"] == 1
    assert known.ids["tokenizer.ggml.eot_token_id"] == 7


# -- tokenizers on pieces, as SentencePiece makes them

PIECES = ["▁", "a", "b", "c", "ab", "▁a", "▁ab", "abc"]
MERGES = [["a", "b"], ["▁", "a"], ["▁", "ab"], ["▁a", "b"], ["ab", "c"]]


def on_pieces(merges: list[list[str]], pieces: list[str] = PIECES) -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    rules = {
        "version": "1.0", "truncation": None, "padding": None, "post_processor": None,
        "decoder": None, "pre_tokenizer": None,
        "added_tokens": [
            {"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for i, name in enumerate(special)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "fuse_unk": True,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "byte_fallback": True, "ignore_merges": False,
                  "vocab": {name: i for i, name in enumerate(names)}, "merges": merges},
    }  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(rules)),
        bos_token="<s>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip


def test_pieces_are_scored_by_their_merges() -> None:
    known = vocabulary_of(on_pieces(MERGES), 4 + 256 + len(PIECES))
    score = dict(zip(known.tokens, known.scores, strict=True))
    assert score["ab"] > score["▁a"] > score["▁ab"] > score["abc"] > max(map(score.get, "abc▁"))
    kinds = dict(zip(known.tokens, known.kinds, strict=True))
    assert kinds["<unk>"] == TokenType.UNKNOWN
    assert kinds["</s>"] == TokenType.CONTROL
    assert kinds["<0x0A>"] == TokenType.BYTE
    assert kinds["▁ab"] == TokenType.NORMAL
    assert known.model == "llama"
    assert known.flags["tokenizer.ggml.add_space_prefix"] is True


def test_merges_that_scores_can_not_say_are_refused() -> None:
    n_rows = 4 + 256 + len(PIECES)
    with pytest.raises(ExportError, match="does not merge '▁a' and 'b'"):
        vocabulary_of(on_pieces([m for m in MERGES if m != ["▁a", "b"]]), n_rows)
    apart = [MERGES[0], MERGES[1], MERGES[2], MERGES[4], MERGES[3]]
    with pytest.raises(ExportError, match="make '▁ab' are not neighbours"):
        vocabulary_of(on_pieces(apart), n_rows)


def test_the_name_says_phi_3_where_the_tokenizer_drops_spaces_as_that_of_phi_3(
    tiny_tokenizer: PreTrainedTokenizerFast,
) -> None:
    """llama.cpp takes the tokenizer's rules from that name, and reads no other with it."""
    assert name_in_file("my phi3-mini Phi-3", tiny_tokenizer) == "my Phi 3-mini Phi 3"
    other = copy.deepcopy(tiny_tokenizer)
    kept = [AddedToken(token, special=True) for token in ("<unk>", "<|endoftext|>", "<s>")]
    dropped = [
        AddedToken(token, special=True, rstrip=True) for token in ("<|user|>", "</s>", "<pad>")
    ]
    other.add_tokens([*kept, *dropped])
    assert name_in_file("best", other) == "best (Phi-3)"
    assert name_in_file("phi3", other) == "phi3"
    other.add_tokens([AddedToken("<|end|>", special=True)])
    assert name_in_file("best", other) == "best"
