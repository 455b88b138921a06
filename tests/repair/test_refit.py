"""Refits: the stream behind a cut comes near the whole model's, as by stock modules.

The oracle runs stock models by hooks, a row at a time, solves least squares in float64 and replaces
one weight after another.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hooks import hooked
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from gptailor.core.repair import refit_cuts, without_repair
from gptailor.core.specs import MemberSpec
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.engine.engine import Engine
from gptailor.engine.streams import Streams
from gptailor.errors import ConfigError
from gptailor.family import Family, load_family
from gptailor.repair.last_map import last_map
from gptailor.repair.refit import Refitter, whole_of

DOWN = "mlp.down_proj.weight"
LAMBDAS = (0.03, 0.1, 0.3, 1.0, 3.0)


def merged(position: int) -> LayerSpec:
    names = f"math:{position}", f"code:{position}"
    return LayerSpec.of(*names, merge="task_arithmetic", scale=0.6)


def layers(*names: str | LayerSpec) -> Tailoring:
    """Layers by name."""
    specs = [LayerSpec.of(name) if isinstance(name, str) else name for name in names]
    return Tailoring(tuple(specs))


def rows_of(seed: int) -> list[tuple[int, ...]]:
    """Rows of differing first tokens, so that none shares a prefix with another."""
    drawn = torch.Generator().manual_seed(seed)
    rows = torch.randint(3, 320, (40, 36), generator=drawn)
    rows[:, 0] = torch.randperm(300, generator=drawn)[:40] + 3
    return [tuple(row) for row in rows.tolist()]


# what is cut, and the same model with the cut layers put back
TWO_CUTS = (
    layers("base:0", merged(1), "code:3"),
    layers("base:0", merged(1), merged(2), "code:3", "code:4", "code:5"),
)
FIRST_CUT = (
    layers("math:1", "base:2", "base:5"),
    layers("math:0", "math:1", "base:2", "base:3", "base:4", "base:5"),
)
# a layer merged from two positions of one member stands for both, and for the cut behind them
TWO_POSITIONS = (
    layers(
        "base:0", LayerSpec.of("math:1", "math:2", merge="linear", weights=(0.5, 0.5)), "base:4"
    ),
    layers("base:0", "math:1", "math:2", "math:3", "base:4", "base:5"),
)


@pytest.fixture(scope="module")
def refitter(pico: Family) -> Refitter:
    return Refitter(Engine(pico), rows_of(0))


@pytest.fixture(scope="module")
def unseen(refitter: Refitter) -> Streams:
    return Streams(refitter.engine, rows_of(1))


def error_at(
    streams: Streams, tailoring: Tailoring, whole: Tailoring, index: int, depth: int
) -> float:
    """Of the stream after a layer against the whole model's at a depth: mean relative square."""
    wanted = list(streams.along(whole))[depth]
    found = list(streams.along(tailoring))[index + 1]
    errors = []
    for kept, one, other in zip(streams.kept, found, wanted, strict=True):
        errors.append((one - other)[kept].square().sum(-1) / other[kept].square().sum(-1))
    return float(torch.cat(errors).mean())


def stock_model(family: Family, tailoring: Tailoring) -> PreTrainedModel:
    """A stock model of the layers, merged by the formula."""
    path = family.paths["base"]
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, num_hidden_layers=len(tailoring.layers)
    )
    for layer, spec in zip(model.model.layers, tailoring.layers, strict=True):
        one, *others = [family.layer(source) for source in spec.sources]
        state = dict(one)
        if spec.method == "linear":
            state = {n: (t + others[0][n]) / 2 for n, t in one.items()}
        elif others:
            base = family.layer(Source("base", spec.position))
            state = {n: t + 0.6 * (one[n] - t + others[0][n] - t) for n, t in base.items()}
        layer.load_state_dict(state)
    return model.eval()


def by_hand(
    refitter: Refitter, tailoring: Tailoring, whole: Tailoring, refits: Mapping[int, int]
) -> dict[int, Tensor]:
    """The weight of each refitted layer, (H, F)."""
    family, rows = refitter.engine.family, rows_of(0)
    model, target = stock_model(family, tailoring), stock_model(family, whole)
    name = "model.layers.0.mlp.down_proj"
    wanted = [hooked(target, row, name)[0] for row in rows]
    found = {}
    for index, depth in refits.items():
        seen = [hooked(model, row, f"model.layers.{index}.mlp.down_proj") for row in rows]
        tokens = [
            (
                seen[n][1].double(),
                (wanted[n][depth] - seen[n][0][index + 1]).double(),
                wanted[n][depth].square().sum(-1, keepdim=True).reciprocal().double(),
            )
            for n in range(len(rows))
        ]
        held_out = tokens[7::8]
        fit = [each for n, each in enumerate(tokens) if n % 8 != 7]
        gains = {
            share: sum(
                float((w * (m.square() - (m - i @ change).square())).sum()) for i, m, w in held_out
            )
            for share in LAMBDAS
            for change in [solved(fit, share)]
        }
        largest = max(each for each in LAMBDAS if gains[each] >= 0.95 * max(gains.values()))
        change = solved(tokens, largest)
        weight = model.model.layers[index].mlp.down_proj.weight
        weight.data += change.T.float()
        found[index] = weight.detach().clone()
    return found


def solved(batches: list[tuple[Tensor, ...]], share: float) -> Tensor:
    """Least squares of weighted rows, and below them of the ridge, (F, H)."""
    inputs, missing, weights = (torch.cat(parts) for parts in zip(*batches, strict=True))
    rows, n = weights.sqrt() * inputs, inputs.shape[1]
    ridge = (share * rows.square().sum() / n).sqrt() * torch.eye(n, dtype=torch.float64)
    zeros = torch.zeros(n, missing.shape[1], dtype=torch.float64)
    return torch.linalg.lstsq(
        torch.cat([rows, ridge]), torch.cat([weights.sqrt() * missing, zeros])
    ).solution


@pytest.mark.parametrize(
    ("models", "later", "refits"),
    [
        (TWO_CUTS, False, {1: 3, 2: 6}),
        (FIRST_CUT, False, {1: 5}),
        (FIRST_CUT, True, {0: 2, 1: 5, 2: 6}),
        (TWO_POSITIONS, False, {1: 4, 2: 6}),
    ],
)
def test_cut_after_cut_is_one_stock_weight_replaced_after_another(
    refitter: Refitter,
    models: tuple[Tailoring, Tailoring],
    later: bool,
    refits: dict[int, int],
) -> None:
    tailoring, whole = models
    assert whole_of(tailoring, 6) == whole
    refitted = refitter.cut_after_cut(refit_cuts(tailoring, 6), later_layers=later)
    assert {n: s.refit_to for n, s in enumerate(refitted.layers) if s.repaired} == refits
    assert without_repair(refitted) == tailoring
    wanted = by_hand(refitter, tailoring, whole, refits)
    for index, weight in wanted.items():
        digest = refitted.layers[index].fitted
        assert digest is not None
        tensors = refitter.engine.family.fitted.get(digest)
        assert list(tensors) == [DOWN]
        torch.testing.assert_close(tensors[DOWN], weight, rtol=1e-3, atol=1e-3)


def test_a_refit_does_not_depend_on_how_rows_are_batched(pico: Family, refitter: Refitter) -> None:
    engine = Engine(pico)
    engine.batch_tokens = 128
    small = Refitter(engine, rows_of(0))
    assert len(small.streams.batches) > len(refitter.streams.batches)
    (weights, others) = (
        [pico.fitted.get(spec.fitted)[DOWN] for spec in refitted.layers if spec.fitted]
        for each in (refitter, small)
        for refitted in [each.cut_after_cut(FIRST_CUT[0], later_layers=True)]
    )
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_tokens_are_of_the_first_row_that_has_them(pico: Family) -> None:
    rows = [(5, 6, 7, 8), (9, 1, 7), (5, 6, 4, 3, 2)]
    streams = Streams(Engine(pico), rows)
    found = {}
    for batch, packed in enumerate(streams.batches):
        numbers = streams.row_numbers(batch)
        for row, column in torch.nonzero(streams.real[batch]).tolist():
            place = int(packed.positions[row, column]), int(packed.tokens[row, column])
            found[place] = int(numbers[row, column])
        assert (numbers[~streams.real[batch]] == -1).all()
    # (position, token) -> row; the last token of a row is not run
    first, second = {(0, 5): 0, (1, 6): 0, (2, 7): 0}, {(0, 9): 1, (1, 1): 1}
    assert found == first | second | {(2, 4): 2, (3, 3): 2}


def test_too_few_rows_to_hold_one_out_are_refused(pico: Family) -> None:
    with pytest.raises(ConfigError, match=r"needs 8 rows or more, .* and the texts give 7; name"):
        Refitter(Engine(pico), rows_of(0)[:7])
    assert Refitter(Engine(pico), rows_of(0)[:7], ridges=(1.0,)).streams.n_tokens


def test_refits_bring_the_unseen_stream_nearer_and_cut_after_cut_the_nearest(
    refitter: Refitter, unseen: Streams
) -> None:
    tailoring, whole = TWO_CUTS
    family = refitter.engine.family
    cuts = refit_cuts(tailoring, 6)
    uncut = Tailoring(
        tuple(
            spec.with_repair(fitted=family.fitted.add(refitter.from_uncut(spec)))
            if spec.refit_to
            else spec
            for spec in cuts.layers
        )
    )
    exact = refitter.cut_after_cut(tailoring)
    for index, depth in ((1, 3), (2, 6)):
        plain, fast, slow = (
            error_at(unseen, each, whole, index, depth) for each in (tailoring, uncut, exact)
        )
        assert fast < 0.9 * plain
        assert slow < 0.9 * plain
    assert slow < fast  # at the second cut, of which the first was seen


def test_a_refit_from_uncut_members_is_made_once_and_from_each_source_in_turn(
    refitter: Refitter,
) -> None:
    spec = merged(1).with_repair(refit_to=3)
    assert refitter.from_uncut(spec) is refitter.from_uncut(spec)
    streams = [
        list(refitter.streams.along(Tailoring.whole(member, 6))) for member in ("code", "math")
    ]
    turn, before, wanted = 0, [], []
    for batch, real in enumerate(refitter.streams.real):
        for depth, states in ((1, before), (3, wanted)):
            states.append(streams[0][depth][batch].clone())
        for row in range(len(real)):
            before[-1][row] = streams[turn % 2][1][batch][row]
            wanted[-1][row] = streams[turn % 2][3][batch][row]
            turn += 1
    own = refitter._refitted(merged(1), before, wanted)
    assert torch.equal(own[DOWN], refitter.from_uncut(spec)[DOWN])


def test_each_source_of_a_merge_is_fitted_from_also_where_all_rows_are_one_batch(
    refitter: Refitter,
) -> None:
    engine = Engine(refitter.engine.family)
    engine.batch_tokens = 2**20
    one = Refitter(engine, rows_of(0))
    assert len(one.streams.batches) == 1
    alone = {
        member: one._refitted(merged(1), *([each] for each in (states[1][0], states[3][0])))[DOWN]
        for member in ("code", "math")
        for states in [list(one.streams.along(Tailoring.whole(member, 6)))]
    }
    both = one.from_uncut(merged(1).with_repair(refit_to=3))[DOWN]
    for fitted in alone.values():
        assert not torch.allclose(both, fitted, rtol=1e-3, atol=1e-5)


def test_a_model_without_cuts_is_left_as_it_is(refitter: Refitter) -> None:
    both = LayerSpec.of("base:4", "code:5", merge="linear")
    narrow = LayerSpec.of("base:1").with_repair(fitted="9f3c21d07a5e44b1")
    for plain in (
        Tailoring.whole("math", 6),
        layers("base:0", "base:1", both),
        layers("base:0", narrow, "base:2", "base:3", "base:4", "base:5"),
    ):
        assert refitter.cut_after_cut(plain, later_layers=True) == plain


def test_what_attention_adds_may_be_far_longer_than_the_stream_before_it(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model("llama", num_hidden_layers=6)
    with torch.no_grad():
        model.model.layers[4].self_attn.o_proj.weight.mul_(300.0)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    family = load_family(MemberSpec(path=str(tmp_path)), {}, dtype=torch.bfloat16)
    found = last_map(Streams(Engine(family), rows_of(0)), 4)
    assert found.name == "mlp.down_proj"
    assert found.factor == pytest.approx(1.0, abs=0.01)


def test_layers_that_add_nothing_are_refitted_like_others(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model("llama", num_hidden_layers=6)
    for linear in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
        torch.nn.init.zeros_(linear.weight)
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    family = load_family(MemberSpec(path=str(tmp_path)), {}, dtype=torch.float32)
    refitter = Refitter(Engine(family), rows_of(0))
    tailoring, whole = layers("base:0", "base:2", "base:5"), Tailoring.whole("base", 6)
    refitted = refitter.cut_after_cut(tailoring)
    unseen = Streams(refitter.engine, rows_of(1))
    plain, exact = (error_at(unseen, each, whole, 1, 5) for each in (tailoring, refitted))
    assert exact < 0.9 * plain
