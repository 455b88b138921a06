"""Vocabularies that differ by padding or added tokens, matched by the tokens' text."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gptailor.errors import FamilyError
from gptailor.family import Family, MemberSpec, load_family

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def save(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> Callable[..., str]:
    """Factory: a folder of a model of one layer whose tokenizer has some tokens added, in order."""

    def made(name: str, *added: str, rows: int | None = None, **fields: Any) -> str:
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.add_tokens(list(added), special_tokens=True)
        seed = sum(map(ord, name))
        fields = {"vocab_size": rows or len(tokenizer), "num_hidden_layers": 1, **fields}
        tiny_model("llama", seed=seed, **fields).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return made


def _load(base: str, **variants: str) -> Family:
    sources = {name: MemberSpec(path=path) for name, path in variants.items()}
    return load_family(MemberSpec(path=base), sources, dtype=torch.float32)


def _rows(family: Family, member: str, own: Family, tensor: str) -> tuple[torch.Tensor, ...]:
    """A variant's tensor in the family, as it is on its own, and the base's."""
    return family.states[member][tensor], own.states["base"][tensor], family.states["base"][tensor]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tied", [False, True])
def test_a_pad_token_more_is_left_out(save: Callable[..., str], tied: bool) -> None:
    """The published family: a base of 32,000 tokens, and a variant with [PAD] as the 32,001st."""
    base = save("base", tie_word_embeddings=tied)
    padded = save("padded", "[PAD]", tie_word_embeddings=tied)
    family = _load(base, padded=padded)
    for tensor in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
        found, theirs, _ = _rows(family, "padded", _load(padded), tensor)
        assert torch.equal(found, theirs[:320])
    (note,) = [note for note in family.notes if "vocabulary" in note]
    assert "has 321 rows of vocabulary and the base 320" in note
    assert "'[PAD]', which the base lacks, are left out" in note
    assert len(family.tokenizer) == 320


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tied", [False, True])
def test_added_tokens_are_matched_by_their_text(save: Callable[..., str], tied: bool) -> None:
    """Each of three variants has its own order and its own choice of the base's added tokens."""
    base = save("base", "<user>", "<bot>", "<pad2>", tie_word_embeddings=tied)
    others = {
        "same": save("same", "<user>", "<bot>", "<pad2>", tie_word_embeddings=tied),
        "turned": save("turned", "<pad2>", "<user>", "<bot>", tie_word_embeddings=tied),
        "less": save("less", "<bot>", tie_word_embeddings=tied),
        "more": save("more", "<x>", "<bot>", "<user>", "<y>", tie_word_embeddings=tied),
    }
    rows = {  # of the base's last three tokens, in the variant; None: the base's own
        "same": [320, 321, 322],
        "turned": [321, 322, 320],
        "less": [None, 320, None],
        "more": [322, 321, None],
    }
    family = _load(base, **others)
    for name, places in rows.items():
        own = _load(others[name])
        for tensor in (EMBEDDING,) if tied else (EMBEDDING, HEAD):
            found, theirs, ours = _rows(family, name, own, tensor)
            expected = [theirs[row] for row in range(320)]
            expected += [
                ours[320 + index] if place is None else theirs[place]
                for index, place in enumerate(places)
            ]
            assert torch.equal(found, torch.stack(expected))
    told = "\n".join(family.notes)
    assert "variant 'same' has" not in told
    assert "'<user>', '<bot>', '<pad2>' have other ids" in told
    assert "it lacks '<user>', '<pad2>', which keep the base's rows" in told
    assert "'<x>', '<y>', which the base lacks, are left out" in told


@pytest.mark.slow
def test_embeddings_padded_to_a_multiple(save: Callable[..., str]) -> None:
    """Rows of no token stand for themselves, unless the variant made a token of one."""
    base = save("base", rows=384)
    family = _load(
        base,
        wide=save("wide", rows=512),
        bare=save("bare", rows=320),
        token=save("token", "[PAD]", rows=384),
    )
    own = {name: _load(family.paths[name]) for name in ("wide", "bare", "token")}
    found, theirs, ours = _rows(family, "wide", own["wide"], EMBEDDING)
    assert torch.equal(found, theirs[:384])
    found, theirs, ours = _rows(family, "bare", own["bare"], EMBEDDING)
    assert torch.equal(found, torch.cat([theirs, ours[320:]]))
    found, theirs, ours = _rows(family, "token", own["token"], EMBEDDING)
    assert torch.equal(found, torch.cat([theirs[:320], ours[320:321], theirs[321:]]))


def test_the_same_token_at_another_id_computes_the_same(save: Callable[..., str]) -> None:
    """A variant whose added tokens are turned gives each text's next tokens as it did itself."""
    base = save("base", "<user>", "<bot>")
    turned = save("turned", "<bot>", "<user>")
    family, own = _load(base, turned=turned), _load(turned)
    model, itself = family.skeleton(), own.skeleton()
    model.load_state_dict(dict(family.states["turned"]), assign=True)
    itself.load_state_dict(dict(own.states["base"]), assign=True)
    text = "<user>Two and three<bot>make five"
    ids = family.tokenizer(text, return_tensors="pt")["input_ids"]
    its_ids = own.tokenizer(text, return_tensors="pt")["input_ids"]
    assert not torch.equal(ids, its_ids)
    with torch.no_grad():
        logits, its_logits = model(ids).logits, itself(its_ids).logits
    its_logits[..., [320, 321]] = its_logits[..., [321, 320]]
    torch.testing.assert_close(logits, its_logits)


def test_a_token_that_is_free_may_be_named(save: Callable[..., str]) -> None:
    base = save("base", "<|reserved_0|>", "<|reserved_1|>")
    family = _load(base, named=save("named", "<think>", "<|reserved_1|>"))
    found, theirs, ours = _rows(family, "named", _load(family.paths["named"]), EMBEDDING)
    assert torch.equal(found, torch.cat([theirs[:320], ours[320:321], theirs[321:]]))


def test_fewer_rows_without_a_tokenizer_are_not_guessed_at(
    save: Callable[..., str], tmp_path: Path
) -> None:
    base, bare = save("base", "<user>"), save("bare")
    for file in Path(bare).glob("tokenizer*"):
        file.unlink()
    with pytest.raises(FamilyError, match="has 320 rows but the base has 321, and without"):
        _load(base, bare=bare)


def test_another_tokenizer_altogether_is_refused(save: Callable[..., str]) -> None:
    from tokenizers import Tokenizer, models

    base, odd = save("base"), save("odd")
    words = {f"word{number}": number for number in range(320)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="word0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(odd)
    with pytest.raises(FamilyError) as caught:
        _load(base, odd=odd)
    (told,) = caught.value.problems
    assert told.startswith(f"variant 'odd': {odd}: 3")
    assert "tokens differ from the base's (id " in told
    assert "must share one tokenizer, but for added tokens" in told


def test_a_tokenizer_that_splits_text_otherwise_is_told(save: Callable[..., str]) -> None:
    base, same, other = save("base"), save("same"), save("other")
    path = Path(other) / "tokenizer.json"
    rules = json.loads(path.read_text(encoding="utf-8"))
    digits = {"type": "Digits", "individual_digits": True}
    rules["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, rules["pre_tokenizer"]],
    }
    rules["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(rules), encoding="utf-8")
    told = [note for note in _load(base, same=same, other=other).notes if "splits" in note]
    assert told == [
        "variant 'other' has the base's tokens but splits text into them in another way; "
        "the base's tokenizer is the study's"
    ]
