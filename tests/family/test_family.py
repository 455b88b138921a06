"""What a loaded family holds and hands out."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gptailor.app.inputs import load_members
from gptailor.config import config_of
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.errors import FamilyError, TailoringError
from gptailor.family import Family, MemberSpec, load_family


def _rebuilt(family: Family, member: str) -> PreTrainedModel:
    """A whole member put together from what the family hands out."""
    model = family.skeleton()
    state = {}
    for part in ("embedding", "norm", "head"):
        state |= family.outer_part(part, member)
    for layer in range(family.n_layers):
        for name, tensor in family.layer(Source(member, layer)).items():
            state[f"{family.layout.layers}.{layer}.{name}"] = tensor
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    return model


def _logits(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.randint(3, 300, (2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def test_the_pico_family_is_as_described(pico: Family) -> None:
    assert pico.members == ("base", "math", "code", "chat")
    assert pico.n_layers == 6
    assert pico.dtype == torch.float32
    assert not pico.tied
    assert pico.parameters == sum(p.numel() for p in pico.skeleton().parameters())
    assert len(set(pico.layer_parameters)) == 1
    assert len(pico.tokenizer) == pico.config.vocab_size
    assert len(set(pico.digests.values())) == 4


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "model_type", ["llama", "qwen2", "gemma3_text", "phi3", "smollm3", "gpt_neox"]
)
@pytest.mark.parametrize("tied", [False, True])
def test_a_member_rebuilt_from_its_parts_is_the_model_itself(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path, model_type: str, tied: bool
) -> None:
    model = tiny_model(model_type, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    family = load_family(MemberSpec(path=str(tmp_path)), {}, dtype=torch.float32)
    assert family.tied == tied
    assert family.members == ("base",)
    assert torch.equal(_logits(_rebuilt(family, "base")), _logits(model))


def test_a_variant_is_loaded_in_the_dtype_asked_for(pico_family) -> None:
    folder = pico_family.variants["math"]
    family = load_family(
        MemberSpec(path=str(pico_family.base)),
        {"m": MemberSpec(path=str(folder))},
        dtype=torch.bfloat16,
    )
    truth = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {t.dtype for t in family.layer(Source("m", 0)).values()} == {torch.bfloat16}
    assert torch.equal(_logits(_rebuilt(family, "m")), _logits(truth))


def test_a_family_opened_from_python_has_the_dtype_that_the_command_line_takes(
    pico_family,
) -> None:
    base = MemberSpec(path=str(pico_family.base))
    config = {
        "family": {"base": base.path, "variants": {}},
        "remove": 1,
        "tasks": [{"name": "arc_easy", "metric": "acc"}],
    }
    config["engine"] = {"device": "cpu"}
    assert load_family(base, {}).dtype == load_members(config_of(config)).dtype
    assert load_family(base, {}, dtype="float16").dtype == torch.float16
    with pytest.raises(FamilyError, match="unknown dtype 'bfloat'; did you mean 'bfloat16'"):
        load_family(base, {}, dtype="bfloat")


def test_equal_tensors_are_one_tensor_and_counted_once(pico: Family) -> None:
    name = "input_layernorm.weight"
    base, math = pico.layer(Source("base", 2))[name], pico.layer(Source("math", 2))[name]
    assert base.data_ptr() == math.data_ptr()
    norms = 32 * (2 * 6 + 1)
    assert pico.nbytes == 4 * (4 * pico.parameters - 3 * norms)
    assert any("shares 13 of 57 tensors" in note for note in pico.notes)


def test_loading_leaves_the_global_seed_and_the_screen_alone(
    pico_family, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_family(MemberSpec(path=str(pico_family.base)), {}, dtype=torch.float32)
    assert torch.equal(torch.rand(3), expected)
    assert capfd.readouterr() == ("", "")


def test_the_skeleton_has_real_buffers_and_no_weights(pico: Family) -> None:
    model = pico.skeleton()
    assert not model.training
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert {b.device.type for b in model.buffers()} == {"cpu"}


def test_a_folder_without_a_tokenizer_is_told_when_one_is_needed(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    family = load_family(MemberSpec(path=str(tmp_path)), {}, dtype=torch.float32)
    with pytest.raises(FamilyError, match="has no tokenizer"):
        _ = family.tokenizer


def test_the_licence_is_read_from_the_model_card(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    family = load_family(MemberSpec(path=str(tmp_path)), {}, dtype=torch.float32)
    assert family.licence == "apache-2.0"


def test_layers_of_unlike_kind_do_not_merge(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    tiny_model("smollm3").save_pretrained(tmp_path)
    path = str(tmp_path)
    family = load_family(
        MemberSpec(path=path), {"twin": MemberSpec(path=path)}, dtype=torch.float32
    )
    family.check(Tailoring((LayerSpec.of("base:0", "twin:1", merge="linear"),)))
    with pytest.raises(TailoringError, match="no_rope_layers: 1 and 0"):
        family.check(Tailoring((LayerSpec.of("base:0", "twin:2", merge="linear"),)))


def test_what_does_not_exist_is_refused(pico: Family) -> None:
    with pytest.raises(TailoringError, match="unknown member 'maths'; did you mean 'math'"):
        pico.layer(Source("maths", 0))
    with pytest.raises(TailoringError, match="layers go from 0 to 5"):
        pico.layer(Source("math", 6))
    with pytest.raises(TailoringError, match="unknown part 'tail'"):
        pico.outer_part("tail", "base")
    with pytest.raises(TailoringError, match="unknown member"):
        pico.outer_part("norm", "nobody")
