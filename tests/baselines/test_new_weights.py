"""Baselines that make new weights, against the formulas written out."""

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gptailor.baselines import BaselineContext, Statistics
from gptailor.baselines.flatten import FlatMerge, joined, leverage_scores, nystrom, without_gains
from gptailor.baselines.laco import _sum_of_differences, laco_released
from gptailor.baselines.mka import diffusion_map, mka, shared_information
from gptailor.core.plugins import BASELINES
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine import Engine
from gptailor.engine.streams import Streams
from gptailor.errors import ConfigError, FamilyError
from gptailor.family import Family, family_of
from gptailor.family.family import layer_weights
from gptailor.family.gated_layer import DOWN, OUT
from gptailor.searchers.space import Space

Make = Callable[..., BaselineContext]
UP = "mlp.up_proj.weight"
NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight")


def weights(family: Family, spec: LayerSpec) -> Mapping[str, Tensor]:
    return layer_weights(family, spec, torch.float32)


def layer(family: Family, index: int) -> Mapping[str, Tensor]:
    return weights(family, LayerSpec.of(f"math:{index}"))


def test_laco_adds_the_differences_of_the_layers_behind(context: Make, family: Family) -> None:
    found = BASELINES.get("laco")(context(3), n_merged=4)
    assert len(found.layers) == 5
    merges = [spec for spec in found.layers if spec.method == "task_arithmetic"]
    (merged,) = merges
    first = merged.base.layer
    assert [source.layer for source in merged.sources] == [first + 1, first + 2, first + 3]
    made, own = weights(family, merged), layer(family, first)
    for name, tensor in own.items():
        wanted = tensor + sum(layer(family, first + k)[name] - tensor for k in (1, 2, 3))
        torch.testing.assert_close(made[name], wanted)


def test_laco_merges_the_window_that_leaves_the_stream_most_alike(
    context: Make, models: Mapping[str, Any], rows: Any
) -> None:
    def final(layers: list[Any]) -> Tensor:
        model, last = models["math"].model, list[Tensor]()
        own, model.layers = model.layers, nn.ModuleList(layers)
        hook = model.norm.register_forward_pre_hook(lambda _, given: last.append(given[0][0, 1:]))
        with torch.no_grad():
            for row in rows:
                model(torch.tensor([row]), use_cache=False)
        hook.remove()
        model.layers = own
        return torch.cat(last).double().flatten()

    whole = list(models["math"].model.layers)
    uncut, alike = final(whole), {}
    for start in range(5):  # the last layer is in no window
        merged = copy.deepcopy(whole[start])
        parts = [dict(each.state_dict()) for each in whole[start : start + 3]]
        merged.load_state_dict({k: parts[1][k] + parts[2][k] - parts[0][k] for k in parts[0]})
        made = final([*whole[:start], merged, *whole[start + 3 :]])
        alike[start] = float(torch.cosine_similarity(made, uncut, dim=0))
    found = BASELINES.get("laco")(context(2), n_merged=3)
    assert [spec.start for spec in found.layers if spec.method] == [max(alike, key=alike.get)]


def test_laco_merges_merged_layers_again(context: Make, family: Family) -> None:
    found = BASELINES.get("laco")(context(5), n_merged=3)
    assert len(found.layers) == 3
    family.check(found)
    one = _sum_of_differences([((3, 1),), ((4, 1),), ((5, 1),)])
    assert one == ((3, -1), (4, 1), (5, 1))
    again = _sum_of_differences([((1, 1),), ((2, 1),), one])
    assert again == ((1, -1), (2, 1), (3, -1), (4, 1), (5, 1))


def test_laco_as_released_telescopes_to_the_last_layer_of_a_window(
    context: Make, family: Family
) -> None:
    found = BASELINES.get("laco_released")(context(2), n_merged=3)
    (spec,) = [spec for spec in found.layers if spec.fitted]
    window = [layer(family, index) for index in range(spec.position - 2, spec.position + 1)]
    looped = dict(window[0])
    for other in window[1:]:  # the authors' loop: each step subtracts what the last one made
        for name in looped.keys() - set(NORMS):
            looped[name] = looped[name] + (other[name] - looped[name])
    made = weights(family, spec)
    assert made.keys() == looped.keys()
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, looped[name], atol=1e-5, rtol=1e-5)


def test_laco_says_that_its_windows_are_too_long(context: Make) -> None:
    with pytest.raises(ConfigError, match="windows of 8 layers leave 8 layers"):
        BASELINES.get("laco")(context(3), n_merged=8)


def test_a_diffusion_map_separates_two_far_clouds() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(40, 5, generator=generator)
    points[20:] += 6
    first = diffusion_map(points)[:, 0]
    assert (first * first[0] > 0).tolist() == [True] * 20 + [False] * 20


def test_information_is_whole_for_a_linear_map_and_small_for_independent_points() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, 4000, 2, generator=generator, dtype=torch.float64)
    assert shared_information(one, one @ torch.tensor([[1.0, 2.0], [0.0, 3.0]]).double()) > 0.999
    assert shared_information(one, other) < 0.05
    # one axis with a correlation of 0.6, the other without: 1 - sqrt(1 - 0.36)
    half = torch.stack([0.6 * one[:, 0] + 0.8 * other[:, 0], other[:, 1]], 1)
    assert shared_information(one, half) == pytest.approx((1 - 0.64**0.5) ** 0.5, abs=0.03)


def test_mka_merges_neighbours_by_their_similarity(context: Make, family: Family) -> None:
    found = BASELINES.get("mka")(context(3), samples=32)
    layers = [[source.layer for source in spec.sources] for spec in found.layers]
    assert [*itertools.chain(*layers)] == list(range(8))  # each layer once, in order
    for spec in found.layers:
        if len(spec.sources) == 2:
            (share, rest) = dict(spec.params)["weights"]
            assert 0 < share < 1
            one, other = (layer(family, source.layer)[OUT] for source in spec.sources)
            torch.testing.assert_close(weights(family, spec)[OUT], share * one + rest * other)


def test_mka_merges_the_two_neighbours_that_share_most(
    context: Make, engine: Engine, rows: Any
) -> None:
    streams = Streams(engine, rows)
    outputs = [*streams.along(Tailoring.whole("math", 8))][1:]
    tokens = [torch.cat([s[k] for s, k in zip(o, streams.kept, strict=True)]) for o in outputs]
    maps = [diffusion_map(each) for each in tokens]
    shared = [shared_information(*pair) for pair in itertools.pairwise(maps)]
    first = shared.index(max(shared))
    (merged,) = [s for s in BASELINES.get("mka")(context(1)).layers if len(s.sources) == 2]
    assert [source.layer for source in merged.sources] == [first, first + 1]
    assert dict(merged.params)["weights"] == pytest.approx((max(shared), 1 - max(shared)))


def test_fold_mixes_cut_layers_into_the_nearest_kept_one(context: Make, family: Family) -> None:
    cut = BASELINES.get("shortgpt")(context(3))
    found = BASELINES.get("fold")(context(3), weight=0.3)
    assert BASELINES.get("fold")(context(3), weight=0.0) == cut
    kept = [spec.position for spec in cut.layers]
    gone = sorted(set(range(8)) - set(kept))
    nearest = {each: min(kept, key=lambda k: (abs(k - each), k)) for each in gone}
    for k, spec in zip(kept, found.layers, strict=True):
        folded = [layer(family, each)[DOWN] for each in gone if nearest[each] == k]
        own = layer(family, k)[DOWN]
        wanted = 0.7 * own + 0.3 * sum(folded) / len(folded) if folded else own
        torch.testing.assert_close(weights(family, spec)[DOWN], wanted)


def idle(family: Family, index: int, *, first: bool) -> LayerSpec:
    """A layer that uses the first or the second of its two kv-groups and halves of 48 neurons."""
    out, up = (layer(family, index)[name].clone() for name in (OUT, UP))
    unused = slice(16, None) if first else slice(0, 16)
    out[:, unused] = 0
    up[slice(24, None) if first else slice(0, 24)] = 0
    spec = LayerSpec.of(f"math:{index}")
    return spec.with_repair(fitted=family.fitted.add({OUT: out, UP: up}))


class Pair(nn.Module):
    """Two layers side by side: both attentions read one stream, then both FFNs the next."""

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.pair = nn.ModuleList(layers)

    def forward(self, hidden: Tensor, **given: Any) -> Tensor:
        attended = [
            one.self_attn(hidden_states=one.input_layernorm(hidden), **given)[0]
            for one in self.pair
        ]
        hidden = hidden + sum(attended)
        return hidden + sum(one.mlp(one.post_attention_layernorm(hidden)) for one in self.pair)


def test_two_layers_that_fit_into_one_are_flattened_without_a_loss(
    models: Mapping[str, Any], family: Family, engine: Engine, rows: Any
) -> None:
    specs = [idle(family, 3, first=True), idle(family, 4, first=False)]
    streams, whole = Streams(engine, rows * 3), Tailoring.whole("math", 8)
    flat = FlatMerge(streams, ridge=1e-9)(specs, list(streams.along(whole))[3])
    layers = (*whole.layers[:3], flat, *whole.layers[5:])
    tailoring = Tailoring(layers, whole.embedding, whole.norm, whole.head)
    model = copy.deepcopy(models["math"])
    pair = list(model.model.layers[3:5])
    for one, spec in zip(pair, specs, strict=True):
        one.load_state_dict(dict(weights(family, spec)))
    model.model.layers[3] = Pair(pair)
    del model.model.layers[4]
    last: list[Tensor] = []
    model.model.norm.register_forward_pre_hook(lambda _, given: last.append(given[0]))
    with torch.no_grad():
        model(torch.tensor([rows[0][:-1]]), use_cache=False)
    (found,) = list(Streams(engine, [rows[0]]).along(tailoring))[-1]
    torch.testing.assert_close(found, last[0], atol=1e-3, rtol=1e-3)


def test_flattening_keeps_the_neurons_that_matter_and_makes_up_for_the_others() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    inputs[:, 5] = inputs[:, 0] + inputs[:, 1]
    down = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    gram, ridge = inputs.T @ inputs, 0.1
    shift = ridge * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    scores = (gram @ torch.linalg.inv(gram + shift)).diagonal()
    torch.testing.assert_close(leverage_scores(gram, ridge), scores)
    kept = [0, 1, 2, 3, 4]  # they span the sixth
    torch.testing.assert_close(inputs[:, kept] @ nystrom(down, gram, kept, 0.0).T, inputs @ down.T)
    kept = [0, 2, 5]
    solved = torch.linalg.lstsq(inputs[:, kept], inputs @ down.T).solution
    torch.testing.assert_close(nystrom(down, gram, kept, 0.0), solved.T)


def test_gains_go_into_the_matrices_and_biases_add_up(family: Family) -> None:
    spec = LayerSpec.of("math:2")
    tensors, own = without_gains(family, spec), layer(family, 2)
    stream = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stream @ tensors[UP].T, (stream * own[NORMS[1]]) @ own[UP].T)
    assert bool((tensors[NORMS[1]] == 1).all())
    wide = joined([{"mlp.down_proj.bias": torch.ones(2)}, {"mlp.down_proj.bias": torch.ones(2)}])
    assert wide["mlp.down_proj.bias"].tolist() == [2, 2]


def test_flatten_groups_layers_by_their_own_first_streams(
    context: Make, family: Family, statistics: Statistics
) -> None:
    found = BASELINES.get("flatten")(context(3))
    family.check(found)
    starts = [spec.position for spec in found.layers]
    cosines, groups = statistics.similarities().cosines, [[index] for index in range(8)]
    while len(groups) > 5:
        alike = [float(cosines[a[0], b[0]]) for a, b in itertools.pairwise(groups)]
        best = alike.index(max(alike))
        groups[best : best + 2] = [groups[best] + groups[best + 1]]
    assert starts == [group[0] for group in groups]
    fitted = [spec.fitted is not None for spec in found.layers]
    assert fitted == [len(group) > 1 for group in groups]


def test_layers_with_norms_inside_are_not_flattened(tiny_model: Any, tiny_tokenizer: Any) -> None:
    family = family_of(tiny_model("qwen3"), {}, tiny_tokenizer)
    with pytest.raises(FamilyError, match=r"q_norm\.weight has a gain that no"):
        without_gains(family, LayerSpec.of("base:0"))


@pytest.mark.parametrize("model_type", ["cohere", "olmo"])
def test_layers_without_the_two_norms_are_not_flattened(
    model_type: str, tiny_model: Any, tiny_tokenizer: Any
) -> None:
    family = family_of(tiny_model(model_type), {}, tiny_tokenizer)
    with pytest.raises(FamilyError, match=r"there is no \w+_layernorm\.weight; use another"):
        without_gains(family, LayerSpec.of("base:0"))


def test_laco_as_released_exchanges_the_norms_of_a_gpt2(
    tiny_model: Any, tiny_tokenizer: Any, rows: list[tuple[int, ...]]
) -> None:
    family = family_of(tiny_model("gpt2", num_hidden_layers=8), {}, tiny_tokenizer)
    statistics = Statistics(Engine(family), "base", rows)
    found = laco_released(BaselineContext(statistics, Space(8, 3, ()), 0))
    (merged, *_) = [spec for spec in found.layers if spec.fitted is not None]
    tensors = family.fitted.get(merged.fitted or "")
    assert {name.split(".")[0] for name in tensors} == {"ln_1", "ln_2"}


def test_mka_says_that_the_texts_have_too_few_tokens(engine: Engine) -> None:
    statistics = Statistics(engine, "math", [(5, 6, 7)])
    with pytest.raises(ConfigError, match="mka compares layers by 3 tokens or more"):
        mka(BaselineContext(statistics, Space(8, 2, ("math",)), 0))
