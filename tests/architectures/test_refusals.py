"""Every causal language model of transformers is taken or refused; nothing is silently wrong.

What is taken is in the table that is walked, or went through the same by hand.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from gptailor.core.tailoring import BASE
from gptailor.engine.engine import Engine
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.errors import FamilyError
from gptailor.family import Family, layer_kinds, refuse_unsupported, tailored_config
from gptailor.family.architecture import facts, text_config
from gptailor.family.layout import Layout

HERE = Path(__file__).parent
WALKED = tuple(yaml.safe_load((HERE / "tiny.yaml").read_text(encoding="utf-8"))["architectures"])
PAGE = HERE.parents[1] / "docs" / "reference" / "architectures.md"
# taken by the rules alone: a tiny model of each was cut, merged, exported and scored as the others
TRIED = (
    *("afmoe", "arcee", "aria_text", "axk1", "biogpt", "bitnet", "codegen", "cohere2"),
    *("cohere2_moe", "cohere_compass_text", "ctrl", "cwm", "dbrx", "deepseek_v2", "dots1"),
    *("ernie4_5", "exaone_moe", "flex_olmo", "flint", "gemma4_unified_text", "glm", "glm4_moe"),
    *("glm4_moe_lite", "gpt-sw3", "gpt_bigcode", "gptj", "granite_swa", "granitemoe_swa"),
    *("granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "hyperclovax"),
    *("internlm3", "iquestcoder", "jais2", "jetmoe", "kolibri1", "laguna", "lfm2", "mellum"),
    *("mimo_v2_flash", "minimax_m2", "ministral3", "nanochat", "openai-gpt", "persimmon"),
    *("phimoe", "seed_oss", "solar_open", "vaultgemma", "xglm", "youtu"),
)
NO_DEFAULT = ("gemma4_assistant",)  # its default config does not pass its own checks


def refusal(config: Any) -> str | None:
    """Why models of this config are refused; None where they are taken."""
    try:
        refuse_unsupported(config)
    except FamilyError as error:
        start, _, reason = str(error).partition(" are not supported: ")
        return reason if start == f"models of type {config.model_type!r}" else f"?{error}"
    return None


@pytest.mark.sampled(8)
@pytest.mark.parametrize("model_type", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_every_causal_model_is_refused_with_the_reason_or_was_tried(model_type: str) -> None:
    if model_type in NO_DEFAULT:
        return
    config = CONFIG_MAPPING[model_type]()
    reason = refusal(config)
    if reason is not None:
        assert not reason.startswith("?")
        assert model_type not in {*WALKED, *TRIED, *facts().multimodal}
        return
    assert model_type in {*WALKED, *TRIED, *facts().multimodal}
    config = text_config(config)
    n_layers = len(layer_kinds(config))
    assert len(layer_kinds(tailored_config(config, range(1, n_layers)))) == n_layers - 1


def test_what_is_taken_apart_is_a_model_of_images_and_text() -> None:
    assert set(facts().multimodal) <= MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys()


@pytest.mark.parametrize(
    ("model_type", "fields", "reason"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "computes with its number"),
        ("falcon", {"alibi": True}, "alibi: false"),
        ("bloom", {}, "distances along the row"),
        ("deepseek_v32", {}, "index_topk is 2048"),
        ("gemma3n_text", {}, "share weights or state"),
        ("zamba2", {}, "share weights or state"),
        ("gemma4_text", {"num_kv_shared_layers": 2}, "num_kv_shared_layers is 2"),
        ("mamba", {}, "recurrent state"),
        ("lfm2", {"layer_types": ["conv"] * 32}, "recurrent state"),
        ("qwen3_next", {}, "names 'linear_attention'"),
        ("ernie4_5_moe", {}, "a pattern that can't follow a cut"),
        ("llama", {"per_layer_config": {"0": {"skip": ["mlp"]}}}, "does not read"),
        ("t5", {}, "encoder with a decoder"),
        ("emu3", {}, "made of several models"),
    ],
)
def test_what_can_not_be_cut_is_refused_with_the_reason(
    model_type: str, fields: dict[str, Any], reason: str
) -> None:
    assert reason in str(refusal(AutoConfig.for_model(model_type, **fields)))


def test_layers_that_depend_on_their_number_are_noticed_by_running_them(
    tiny_fields: Any, randomise: Any, tiny_words: Any
) -> None:
    """Should the tables not know of it: GPT-2 with a flag that they do know."""
    fields = tiny_fields("gpt2") | {"scale_attn_by_inverse_layer_idx": True}
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **fields))
    layout, state = Layout.of(model), dict(randomise(model, 0).state_dict())
    del state[layout.head]  # tied
    family = Family(
        config=model.config,
        layout=layout,
        dtype=torch.float32,
        states={BASE: state},
        paths={BASE: "memory"},
        own_tokenizer=tiny_words,
    )
    with pytest.raises(FamilyError, match=r"GPT2: with a layer cut, .* computes with its number"):
        refuse_inexact(Engine(family))


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the page, without its head."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def names(text: str) -> list[str]:
    """The architectures that a text names, in backticks."""
    return [part for index, part in enumerate(text.split("`")) if index % 2]


def test_the_page_lists_what_is_walked_with_its_kinds_of_layers(tiny_fields: Any) -> None:
    told = {names(cells[0])[0]: names(cells[1]) for cells in rows("Tested")}
    assert list(told) == list(WALKED)
    for model_type, fields in told.items():
        kinds = layer_kinds(AutoConfig.for_model(model_type, **tiny_fields(model_type)))
        differing = {
            pairs[0][0] for pairs in zip(*kinds, strict=True) if len({v for _, v in pairs}) > 1
        }
        assert sorted(differing) == fields, model_type


def test_the_page_lists_what_was_tried_and_what_is_taken_apart() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for heading, listed in (("Tried once", TRIED), ("Images and text", facts().multimodal)):
        section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        assert [name for name in names(section) if name in listed] == sorted(listed)


@pytest.mark.slow
def test_the_page_lists_what_is_refused_with_the_reason() -> None:
    told = {name: cells[1] for cells in rows("Refused") for name in names(cells[0])}
    refused = {}
    for model_type in sorted(
        set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - {*NO_DEFAULT, *facts().multimodal}
    ):
        reason = refusal(CONFIG_MAPPING[model_type]())
        if reason is not None:
            refused[model_type] = reason.partition("; ")[0].partition(" (")[0]
    assert told.keys() == refused.keys()
    assert {name for name, reason in refused.items() if told[name] not in reason} == set()
