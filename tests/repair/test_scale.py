"""Scaled cuts: gains in later layers equal a stream that is multiplied at the cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hooks import hooked
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from gptailor.core.repair import scale_cuts
from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.engine.batches import pack
from gptailor.engine.engine import Engine
from gptailor.engine.selfcheck import plain_logprobs
from gptailor.engine.streams import Streams
from gptailor.errors import ConfigError
from gptailor.family import Family, MemberSpec, layers_path, load_family, tailored_config
from gptailor.repair.scale import refuse_inexact_scale, stream_norms
from gptailor.tasks.task import Passage

ROWS = [tuple(range(start, 3 * start, 2)) for start in range(5, 25)]
PASSAGES = [
    Passage((5, 9, 33, 12, 7, 60, 21, 8, 44, 13, 52), ((17, 4), (30, 31, 6, 19, 25))),
    Passage((41, 11, 3, 28, 15, 50), ((22, 57, 10),)),
]
TAILORING = Tailoring(tuple(map(LayerSpec.of, ("base:0", "math:1", "base:3", "math:5"))))
LAST = {"gpt2": "transformer.h.5.mlp.c_proj"}
_TINY = {"rms_norm_eps": 1e-12}
_GPT2 = {
    "n_embd": 32, "n_head": 4, "n_layer": 6, "n_positions": 64, "layer_norm_epsilon": 1e-12,
    "tie_word_embeddings": True,
}  # fmt: skip
FIELDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _TINY),
    "tied": ("llama", {**_TINY, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {**_TINY, "tie_word_embeddings": True}),
    "gpt2": ("gpt2", _GPT2),
}


@pytest.fixture
def opened(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any, tmp_path: Path
) -> Callable[..., tuple[Family, dict[str, PreTrainedModel]]]:
    """Factory: a base and a variant, and both as plain models."""

    def make(
        model_type: str, *, change: Callable[[PreTrainedModel], None] = lambda _: None, **own: Any
    ) -> tuple[Family, dict[str, PreTrainedModel]]:
        models = {name: tiny_model(model_type, seed=n, **own) for n, name in enumerate(
            (BASE, "math")
        )}  # fmt: skip
        for name, model in models.items():
            change(model)
            model.save_pretrained(tmp_path / name)
            tiny_tokenizer.save_pretrained(tmp_path / name)
        specs = {name: MemberSpec(path=str(tmp_path / name)) for name in models}
        return load_family(specs.pop(BASE), specs, dtype=torch.float32), models

    return make


def multiplied(
    family: Family, models: dict[str, PreTrainedModel], factors: dict[int, float]
) -> PreTrainedModel:
    """A stock model of the layers, its stream multiplied by a factor after some of them."""
    positions = [spec.position for spec in TAILORING.layers]
    model = AutoModelForCausalLM.from_config(tailored_config(family.config, positions))
    path = layers_path(models[BASE])
    outer = {n: t for n, t in models[BASE].state_dict().items() if not n.startswith(f"{path}.")}
    layers = model.get_submodule(path)
    model.load_state_dict(outer, strict=False)
    for index, spec in enumerate(TAILORING.layers):
        own = models[spec.sources[0].member].get_submodule(path)[spec.position]
        layers[index].load_state_dict(own.state_dict())

        def times(_: nn.Module, __: object, out: Any, g: float = factors.get(index, 1.0)) -> Any:
            return out * g if isinstance(out, Tensor) else (out[0] * g, *out[1:])

        layers[index].register_forward_hook(times)
    return model.eval()


@pytest.mark.parametrize("case", FIELDS)
def test_gains_equal_a_stream_multiplied_by_the_ratio_of_norms_at_each_cut(
    opened: Callable[..., Any], case: str
) -> None:
    model_type, own = FIELDS[case]
    family, models = opened(model_type, **own)
    engine = Engine(family)
    streams = Streams(engine, ROWS)
    refuse_inexact_scale(streams)
    norms = stream_norms(streams, family.members)
    name = LAST.get(model_type, "model.layers.5.mlp.down_proj")
    for member, model in models.items():
        seen = [hooked(model, row, name)[0] for row in ROWS]
        for depth in range(7):
            each = torch.cat([states[depth][1:].norm(dim=-1) for states in seen])
            assert norms[member][depth] == pytest.approx(float(each.mean()), rel=1e-4)
    scaled = scale_cuts(TAILORING, 6, norms)
    first, second = norms["math"][3] / norms["math"][2], norms[BASE][5] / norms[BASE][4]
    gains = [1.0, 1.0, 1 / first, 1 / first / second]
    assert [spec.gain for spec in scaled.layers] == pytest.approx(gains, rel=1e-5)
    assert abs(first - 1) > 0.01
    truth = multiplied(family, models, {1: first, 2: second})
    (batch,) = pack(PASSAGES)
    wanted = plain_logprobs(truth, batch.passages)
    plain, found = engine.run([TAILORING, scaled], [batch])
    torch.testing.assert_close(found.targets[0].logprob, wanted, rtol=0, atol=2e-4)
    assert (plain.targets[0].logprob - wanted).abs().max() > 1e-2


def test_layers_that_see_the_scale_of_the_stream_are_refused(opened: Callable[..., Any]) -> None:
    family, _ = opened("olmo2")
    told = "repair: scale is not exact for models of type 'olmo2': layer 5 depends on the scale of"
    with pytest.raises(ConfigError, match=told) as caught:
        refuse_inexact_scale(Streams(Engine(family), ROWS))
    assert len(caught.value.problems) == 1


def test_embeddings_so_small_that_a_norms_epsilon_counts_refuse_nothing(
    opened: Callable[..., Any],
) -> None:
    def small(model: PreTrainedModel) -> None:
        model.model.embed_tokens.weight.data *= 1e-2

    family, _ = opened("llama", change=small, rms_norm_eps=1e-5)
    refuse_inexact_scale(Streams(Engine(family), ROWS))
