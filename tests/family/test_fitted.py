"""Fitted tensors: named by their bytes, kept in files, put in place of a layer's own."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.errors import TailoringError
from gptailor.family.family import Family, layer_weights
from gptailor.family.fitted import FittedWeights, digest_of, output_names

DOWN, OUT = "mlp.down_proj.weight", "self_attn.o_proj.weight"
SPEC = LayerSpec.of("math:1", "code:1", merge="linear")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_digest_names_names_types_shapes_and_bytes() -> None:
    tensor = drawn(4, 6)
    others = [
        {"a": tensor},
        {"b": tensor},
        {"a": tensor.T},
        {"a": tensor.view(6, 4)},
        {"a": tensor.view(torch.int32)},
        {"a": tensor + 1},
        {"a": tensor, "b": tensor},
    ]
    assert len({digest_of(each) for each in others}) == len(others)
    assert digest_of({"b": tensor, "a": drawn(2)}) == digest_of({"a": drawn(2), "b": tensor})
    assert digest_of({"a": tensor.clone().T.T}) == digest_of({"a": tensor})


def test_fitted_tensors_are_saved_and_found_by_their_digest(tmp_path: Path) -> None:
    fitted, tensor = FittedWeights(), drawn(4, 6)
    with torch.inference_mode():
        digest = fitted.add({DOWN: tensor.T * 2})
    (kept,) = fitted.get(digest).values()
    assert not kept.is_inference()
    tailoring = Tailoring((LayerSpec.of("base:0").with_repair(fitted=digest),))
    fitted.save(tailoring, tmp_path / "fitted")
    (path,) = (tmp_path / "fitted").iterdir()
    assert path.name == f"{digest}.safetensors"
    other = FittedWeights()
    with pytest.raises(TailoringError, match=f"{digest} are not there; put {digest}"):
        other.get(digest)
    other.look_in(tmp_path / "elsewhere")
    other.look_in(tmp_path / "fitted")
    assert torch.equal(other.get(digest)[DOWN], tensor.T * 2)
    before = path.stat().st_mtime_ns
    other.save(tailoring, tmp_path / "fitted")
    assert path.stat().st_mtime_ns == before


def test_a_layer_gets_its_fitted_tensors_and_then_its_gain(pico: Family) -> None:
    plain = layer_weights(pico, SPEC, torch.float32)
    weight = drawn(*plain[DOWN].shape)
    digest = pico.fitted.add({DOWN: weight})
    found = layer_weights(pico, SPEC.with_repair(fitted=digest, gain=0.5), torch.float32)
    assert torch.equal(found[DOWN], weight * 0.5)
    assert torch.equal(found[OUT], plain[OUT] * 0.5)
    assert all(torch.equal(found[n], t) for n, t in plain.items() if n not in (DOWN, OUT))
    assert torch.equal(layer_weights(pico, SPEC, torch.float32)[DOWN], plain[DOWN])


def test_what_does_not_fit_a_layer_is_refused_in_one_sentence_each(pico: Family) -> None:
    wrong_shape = pico.fitted.add({DOWN: drawn(48, 32)})
    wrong_name = pico.fitted.add({"mlp.fc2.weight": drawn(32, 48)})
    missing = "0123456789abcdef"
    tailoring = Tailoring(
        (
            LayerSpec.of("base:0").with_repair(fitted=wrong_shape),
            LayerSpec.of("base:1").with_repair(fitted=wrong_name),
            LayerSpec.of("base:2").with_repair(fitted=missing),
        )
    )
    with pytest.raises(TailoringError) as caught:
        pico.check(tailoring)
    for problem, told in zip(
        caught.value.problems,
        (f"do not fit this layer's {DOWN}", "this layer's mlp.fc2.weight", "are not there"),
        strict=True,
    ):
        assert told in problem


def test_files_name_what_they_were_fitted_on_and_other_weights_are_refused(
    pico: Family, tmp_path: Path
) -> None:
    plain = layer_weights(pico, SPEC, pico.dtype)
    pico.fitted.fitted_on = lambda: pico.fitted_on("rows")
    digest = pico.fitted.add({DOWN: plain[DOWN] + 1})
    tailoring = Tailoring((SPEC.with_repair(fitted=digest),))
    pico.fitted.save(tailoring, tmp_path)

    def moved(**changed: float) -> Family:
        states = {
            name: {key: tensor + changed.get(name, 0.0) for key, tensor in state.items()}
            for name, state in pico.states.items()
        }
        family = dataclasses.replace(pico, states=states, fitted=FittedWeights())
        family.fitted.look_in(tmp_path)
        return family

    there = moved(other=1.0)
    there.check(tailoring)
    assert there.fitted.origin(digest) == {
        "calibration": "rows",
        "dtype": str(pico.dtype),
        **{f"member {name}": pico.digests[name] for name in pico.members},
    }
    with pytest.raises(TailoringError) as caught:
        moved(code=1.0).check(tailoring)
    (problem,) = caught.value.problems
    assert f"fitted weights {digest} were fitted with other weights of 'code' than" in problem
    there.check(dataclasses.replace(tailoring, head=LayerSpec((Source("code"),))))
    outer = Tailoring(
        (LayerSpec.of("base:1").with_repair(fitted=digest),), LayerSpec((Source("code"),))
    )
    with pytest.raises(TailoringError, match="fitted with other weights of 'code'"):
        moved(code=1.0).check(outer)
    # what is known of one dtype says nothing of another, nor does a file without a note
    dataclasses.replace(moved(code=1.0), dtype=torch.float16).check(tailoring)
    save_file(dict(pico.fitted.get(digest)), tmp_path / f"{digest}.safetensors")
    moved(code=1.0).check(tailoring)
    note = {"fitted_on": "[" * 100_000}
    save_file(dict(pico.fitted.get(digest)), tmp_path / f"{digest}.safetensors", note)
    with pytest.raises(TailoringError, match=r"safetensors: can't be read: .* copy it again"):
        moved().check(tailoring)


def test_a_refit_without_anything_to_fit_it_from_is_refused() -> None:
    fitted = FittedWeights()
    refit = Tailoring((LayerSpec.of("base:0").with_repair(refit_to=2),))
    (problem,) = fitted.problems(refit, [{}])
    assert "base:0, refit_to 2 names no fitted weights" in problem
    assert "take the tailoring.yaml that the run wrote" in problem


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (
            ("self_attn.q_proj.weight", OUT, "self_attn.o_proj.bias", "mlp.up_proj.weight", DOWN),
            (OUT, "self_attn.o_proj.bias", DOWN),
        ),
        (("attn.c_attn.weight", "attn.c_proj.bias", "mlp.c_fc.bias", "mlp.c_proj.weight"),
         ("attn.c_proj.bias", "mlp.c_proj.weight")),
        (("attention.query_key_value.weight", "attention.dense.weight", "mlp.dense_h_to_4h.weight",
          "mlp.dense_4h_to_h.bias"), ("attention.dense.weight", "mlp.dense_4h_to_h.bias")),
        (("mlp.experts.down_proj", "mlp.experts.down_proj_bias", "mlp.router.weight"),
         ("mlp.experts.down_proj", "mlp.experts.down_proj_bias")),
        ((OUT, DOWN, "post_attention_layernorm.weight", "post_feedforward_layernorm.weight"),
         ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")),
    ],
)  # fmt: skip
def test_a_gain_goes_to_the_last_tensors_of_both_branches(
    names: tuple[str, ...], outputs: tuple[str, ...]
) -> None:
    assert output_names(names) == outputs
