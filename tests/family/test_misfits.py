"""Variants that do not fit the base, and those that can be made to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gptailor.core.tailoring import Source
from gptailor.errors import FamilyError
from gptailor.family import Family, MemberSpec, load_family

Make = Callable[..., str]


@pytest.fixture
def folder(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> Make:
    """Factory: save a tiny model, with a tokenizer if asked for; gives its folder."""

    def make(name: str, *, tokenizer: Any = None, model_type: str = "llama", **fields: Any) -> str:
        tiny_model(model_type, **fields).save_pretrained(tmp_path / name)
        if tokenizer is not None:
            tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


def _load(base: str, **variants: str) -> Family:
    sources = {name: MemberSpec(path=path) for name, path in variants.items()}
    return load_family(MemberSpec(path=base), sources, dtype=torch.float32)


def _faults(base: str, **variants: str) -> list[str]:
    with pytest.raises(FamilyError) as caught:
        _load(base, **variants)
    return list(caught.value.problems)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_hidden_layers": 5}, ["num_hidden_layers is 5 but the base has 6"]),
        ({"hidden_size": 64}, ["hidden_size is 64 but the base has 32"]),
        ({"intermediate_size": 64}, ["intermediate_size is 64 but the base has 48"]),
        ({"rms_norm_eps": 1e-3}, ["rms_norm_eps is 0.001 but the base has 1e-06"]),
        ({"hidden_act": "gelu"}, ["hidden_act is 'gelu' but the base has 'silu'"]),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, ["500000", "10000"]),
        ({"attention_bias": True}, ["attention_bias is True but the base has False"]),
        ({"model_type": "mistral"}, ["is a mistral model but the base is llama"]),
        ({"vocab_size": 300}, ["has 300 rows but the base has 320, and without"]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_variant_that_does_not_fit_is_told_with_both_values(
    folder: Make, fields: dict[str, Any], words: list[str]
) -> None:
    told = "\n".join(_faults(folder("base"), odd=folder("odd", **fields)))
    for word in [*words, "'odd'"]:
        assert word in told


def test_every_misfit_of_every_member_is_told_at_once(folder: Make) -> None:
    told = _faults(
        folder("base"),
        small=folder("small", hidden_size=64),
        good=folder("good"),
        short=folder("short", num_hidden_layers=4),
        gone=folder("gone", rms_norm_eps=0.5),
    )
    for name in ("small", "short", "gone"):
        assert any(f"'{name}'" in sentence for sentence in told)
    assert not any("'good'" in sentence for sentence in told)


def test_several_missing_members_are_told_at_once(tmp_path: Path) -> None:
    told = _faults(f"{tmp_path}/base", math=f"{tmp_path}/math", code=f"{tmp_path}/code")
    assert [sentence.split()[1] for sentence in told] == ["'base':", "'math':", "'code':"]


@pytest.mark.parametrize("name", ["base", "a b", "", "../x", "-x"])
def test_a_variant_needs_a_name_of_its_own(folder: Make, name: str) -> None:
    path = folder("base")
    with pytest.raises(FamilyError):
        load_family(MemberSpec(path=path), {name: MemberSpec(path=path)}, dtype=torch.float32)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("tied", [False, True])
def test_a_padded_vocabulary_gives_the_rows_of_the_base(folder: Make, tied: bool) -> None:
    base = folder("base", tie_word_embeddings=tied)
    padded = folder("padded", vocab_size=384, seed=3, tie_word_embeddings=tied)
    family = _load(base, padded=padded)
    embedding = family.outer_part("embedding", "padded")["model.embed_tokens.weight"]
    assert embedding.shape == (320, 32)
    assert embedding.untyped_storage().nbytes() == embedding.nbytes
    assert [t.shape for t in family.outer_part("head", "padded").values()] == [(320, 32)] * (
        not tied
    )
    assert any("384 rows" in note and "last 64" in note for note in family.notes)


def test_a_variant_with_added_tokens_is_taken(
    folder: Make, tiny_tokenizer: PreTrainedTokenizerFast, pico_family
) -> None:
    more = type(tiny_tokenizer).from_pretrained(pico_family.base)
    more.add_tokens(["<think>", "</think>"])
    base = folder("base", tokenizer=tiny_tokenizer)
    family = _load(base, thinker=folder("thinker", tokenizer=more, vocab_size=322, seed=1))
    told = "'<think>', '</think>', which the base lacks, are left out"
    assert any(told in note for note in family.notes)


def test_other_tokens_at_the_same_ids_are_a_problem(
    folder: Make, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    vocabulary = tiny_tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    tokens[100], tokens[200] = tokens[200], tokens[100]
    from tokenizers import Tokenizer, models

    swapped = Tokenizer(
        models.BPE({token: number for number, token in enumerate(tokens)}, merges=[])
    )
    other = PreTrainedTokenizerFast(tokenizer_object=swapped)
    told = _faults(
        folder("base", tokenizer=tiny_tokenizer), odd=folder("odd", tokenizer=other, seed=1)
    )
    assert len(told) == 1
    assert "2 tokens differ from the base's (id 100 is" in told[0]


@pytest.mark.slow
def test_an_untied_head_that_equals_the_embedding_fits_a_tied_base(
    folder: Make, tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    base = folder("base", tie_word_embeddings=True)
    model = tiny_model("llama", seed=2)
    model.lm_head.weight.data.copy_(model.model.embed_tokens.weight)
    model.save_pretrained(tmp_path / "untied")
    family = _load(base, untied=str(tmp_path / "untied"))
    assert family.tied
    assert family.outer_part("head", "untied") == {}


def test_a_head_of_its_own_does_not_fit_a_tied_base(folder: Make) -> None:
    told = _faults(folder("base", tie_word_embeddings=True), odd=folder("odd", seed=2))
    assert len(told) == 1
    assert "has a head (lm_head.weight) that is not its embedding" in told[0]


def test_a_tied_variant_does_not_fit_a_base_with_a_head(folder: Make) -> None:
    told = _faults(folder("base"), odd=folder("odd", tie_word_embeddings=True))
    assert len(told) == 1
    assert "uses its embedding as the head" in told[0]


def test_a_base_that_says_tied_but_holds_two_tensors_is_untied(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    model.save_pretrained(tmp_path)
    family = _load(str(tmp_path))
    assert not family.tied
    assert not family.config.tie_word_embeddings
    head = family.outer_part("head", "base")["lm_head.weight"]
    assert torch.equal(head, model.lm_head.weight)


def test_a_longer_context_is_said_and_taken(folder: Make) -> None:
    family = _load(folder("base"), long=folder("long", max_position_embeddings=512, seed=1))
    assert any("max_position_embeddings 512 and the base 256" in note for note in family.notes)
    assert family.layer(Source("long", 0))
