"""Width baselines, against least squares, eigenvalues and loops."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gptailor.baselines import BaselineContext, Statistics
from gptailor.baselines.width.huang import mutual_information, redundant, squared_kernels
from gptailor.baselines.width.layerwise import Width, sizes_of, width_of
from gptailor.baselines.width.slimgpt import column_errors, without_columns, without_least_error
from gptailor.baselines.width.wanda_sp import without_lowest
from gptailor.core.plugins import BASELINES
from gptailor.core.tailoring import LayerSpec
from gptailor.engine import Engine
from gptailor.engine.streams import Streams
from gptailor.errors import FamilyError
from gptailor.export.narrow import narrowing
from gptailor.family import Family, family_of
from gptailor.family.family import layer_weights
from gptailor.family.gated_layer import DOWN, OUT
from gptailor.searchers.space import Space

GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(300, 12, generator=GENERATOR, dtype=torch.float64)
INPUTS = INPUTS + 0.6 * INPUTS.roll(1, 1)  # so that columns can make up for others
WEIGHT = torch.randn(5, 12, generator=GENERATOR, dtype=torch.float64)


def best_without(gone: Sequence[int]) -> Tensor:
    """The weight of the other columns that comes nearest to all outputs."""
    kept = [column for column in range(12) if column not in gone]
    found = torch.zeros_like(WEIGHT)
    solved = torch.linalg.lstsq(INPUTS[:, kept], INPUTS @ WEIGHT.T).solution
    found[:, kept] = solved.T
    return found


@pytest.mark.parametrize("gone", [[3], [0, 7], [1, 2, 3, 4]], ids=str)
def test_columns_are_removed_as_by_least_squares(gone: list[int]) -> None:
    inverse = torch.linalg.inv(INPUTS.T @ INPUTS)
    found, left = without_columns(WEIGHT, inverse, torch.tensor(gone))
    wanted = best_without(gone)
    torch.testing.assert_close(found, wanted)
    error = (INPUTS @ (found - WEIGHT).T).square().sum()
    torch.testing.assert_close(column_errors(WEIGHT, inverse, torch.tensor([gone]))[0], error)
    kept = [column for column in range(12) if column not in gone]
    gram = (INPUTS.T @ INPUTS)[kept][:, kept]
    torch.testing.assert_close(left[kept][:, kept], torch.linalg.inv(gram))


def test_blocks_go_one_after_another_by_their_least_error() -> None:
    left, gone = set(range(4)), list[int]()
    for _ in range(2):
        columns = {b: [*gone, *range(3 * b, 3 * b + 3)] for b in left}
        errors = {
            b: float((INPUTS @ (best_without(c) - WEIGHT).T).square().sum())
            for b, c in columns.items()
        }
        best = min(left, key=errors.__getitem__)
        left.remove(best)
        gone = columns[best]
    found = without_least_error(WEIGHT, INPUTS, 3, 2)
    torch.testing.assert_close(found, best_without(gone), atol=0.05, rtol=0.05)  # damped
    assert (found == 0).all(0).nonzero().flatten().tolist() == sorted(gone)


def test_neurons_go_in_groups_until_there_are_as_many_as_wanted() -> None:
    inputs = torch.randn(400, 200, generator=GENERATOR)
    weight = torch.randn(4, 200, generator=GENERATOR)
    weight[:, 50:60] = 0
    found = without_least_error(weight, inputs, 1, 37)
    zero = set((found == 0).all(0).nonzero().flatten().tolist())
    assert len(zero) == 37
    assert zero >= set(range(50, 60))
    error = (inputs @ (found - weight).T).square().sum()
    assert error < (inputs @ (without_lowest(weight, inputs, 1, 37) - weight).T).square().sum()


def test_wanda_takes_the_lowest_sums_of_weight_times_activation() -> None:
    scores = [
        sum(abs(float(WEIGHT[row, column])) for row in range(5))
        * math.sqrt(sum(float(x) ** 2 for x in INPUTS[:, column]))
        for column in range(12)
    ]
    blocks = [sum(scores[4 * b : 4 * b + 4]) for b in range(3)]
    lowest = blocks.index(min(blocks))
    wanted = WEIGHT.clone()
    wanted[:, 4 * lowest : 4 * lowest + 4] = 0
    assert torch.equal(without_lowest(WEIGHT, INPUTS, 4, 1), wanted)


def test_information_is_that_of_the_eigenvalues_of_the_kernel_matrices() -> None:
    n, activations = 40, INPUTS[:40, :3]
    kernels = squared_kernels(activations)

    def entropy(matrix: Tensor) -> float:
        values = torch.linalg.eigvalsh(matrix / matrix.trace())
        return -math.log2(float(values.square().sum()))

    def kernel(column: int) -> Tensor:
        x = activations[:, column] / activations[:, column].std()
        width = 1.06 * n**-0.2
        return torch.exp(-(x[:, None] - x).square() / (2 * width**2))

    for i, j in itertools.product(range(3), range(3)):
        wanted = entropy(kernel(i)) + entropy(kernel(j)) - entropy(kernel(i) * kernel(j))
        found = float(mutual_information(kernels[i][None], kernels[j][None], n)[0])
        assert found == pytest.approx(wanted)


def test_of_copies_of_neurons_all_but_one_go() -> None:
    activations = torch.randn(64, 12, generator=GENERATOR)
    activations[:, 1:4] = activations[:, :1] * torch.tensor([1.0, -2.0, 3.0])  # four alike
    gone = redundant(squared_kernels(activations), 3, 64, np.random.default_rng(0)).tolist()
    assert len(gone) == 3
    assert len(set(gone)) == 3
    # pairs are drawn: most, not always all, come from the copies
    assert len(set(gone) & {0, 1, 2, 3}) >= 2


def test_neurons_make_up_what_whole_groups_leave(context: Any, family: Family) -> None:
    made = context(2)  # a quarter of each layer
    sizes, whole = sizes_of(made), family.layer_parameters[0]
    # q, o: 2 heads * 8 * 32 each; k, v: 8 * 32 each; neuron: 3 * 32
    assert (sizes.group_parameters, sizes.neuron_parameters) == (1536, 96)
    for share in (0.1, 0.25, 0.4, 0.6):
        for heads in (True, False):
            width = width_of(made, share, heads=heads)
            gone = width.n_groups * 1536 + width.n_neurons * 96
            assert abs(gone - share * whole) <= 48 or width.n_neurons in (0, 47)
    assert width_of(made, 0.1) == Width(0, 8)
    assert width_of(made, 0.6) == Width(1, 32)


@pytest.mark.parametrize("name", ["wanda_sp", "slimgpt", "huang"])
def test_a_uniform_width_is_exported_narrow(name: str, context: Any, family: Family) -> None:
    found = BASELINES.get(name)(context(4), **({"samples": 16} if name == "huang" else {}))
    family.check(found)
    assert len(found.layers) == 8
    narrow = narrowing(family, found)
    removed = 4 * family.layer_parameters[0]
    assert narrow.n_parameters == pytest.approx(removed, abs=8 * 48)
    assert len(narrow.groups[0]) == (2 if name == "huang" else 1)


def test_later_layers_are_pruned_on_what_pruned_layers_give_out(
    context: Any, family: Family, statistics: Statistics
) -> None:
    found = BASELINES.get("wanda_sp")(context(4))
    streams = Streams(statistics.engine, statistics.rows)
    states = list(streams.along(found))[5]
    spec, whole = found.layers[5], LayerSpec.of("math:5")
    weight = layer_weights(family, whole, torch.float32)
    pruned = layer_weights(family, spec, torch.float32)
    # what enters down_proj once o_proj is pruned
    masks = [batch.ends > 0 for batch in streams.batches]
    half = whole.with_repair(fitted=family.fitted.add({OUT: pruned[OUT]}))
    inputs = torch.cat(
        [
            x[kept]
            for (x, _), kept in zip(
                streams.tapped(half, states, "mlp.down_proj"), masks, strict=True
            )
        ]
    )
    n_gone = int((pruned[DOWN] == 0).all(0).sum())
    assert n_gone > 0
    torch.testing.assert_close(pruned[DOWN], without_lowest(weight[DOWN], inputs, 1, n_gone))


def test_the_logarithmic_schedule_spares_early_layers_and_removes_as_much(
    context: Any, family: Family
) -> None:
    found = BASELINES.get("slimgpt_log")(context(3))
    sizes = sizes_of(context(3))
    gone = []
    for spec in found.layers:
        tensors = layer_weights(family, spec, torch.float32)
        groups = int((tensors[OUT] == 0).all(0).sum()) // sizes.group_columns
        neurons = int((tensors[DOWN] == 0).all(0).sum())
        gone.append(groups * sizes.group_parameters + neurons * sizes.neuron_parameters)
    assert gone[0] == 0
    assert gone == sorted(gone)
    assert sum(gone) == pytest.approx(3 * family.layer_parameters[0], rel=0.02)
    assert narrowing(family, found) is None


def test_layers_of_several_sizes_are_refused(tiny_model: Any, tiny_tokenizer: Any) -> None:
    model = tiny_model("qwen2_moe", num_hidden_layers=4, decoder_sparse_step=2)
    family = family_of(model, {}, tiny_tokenizer)
    statistics = Statistics(Engine(family), "base", [(3, 4, 5, 6)])
    with pytest.raises(FamilyError, match="can't be taken out of its layers"):
        sizes_of(BaselineContext(statistics, Space(4, 1, ()), 0))


def test_fewer_tokens_than_samples_are_as_many_samples(context: Any) -> None:
    n = sum(len(row) - 1 for row in context(2).statistics.rows)
    huang, specs = BASELINES.get("huang"), []
    for samples in (1024, n - 3):  # rows that begin alike share their first tokens
        specs.append(huang(context(2), samples=samples).layers)
    assert specs[0] == specs[1]
