"""Slopes by merging coefficients are those of a stock model's own gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.engine import Engine
from gptailor.engine.slopes import member_slopes
from gptailor.family import Family, MemberSpec, load_family
from gptailor.family.empty_model import model_around
from gptailor.merge import merge_layer
from gptailor.tasks.task import Passage

PASSAGES = [
    Passage((5, 9, 33), ((12, 7),)),
    Passage((5, 9, 33, 60), ((21, 8, 44),)),
    Passage((41,), ((11,),)),
]
WEIGHTS = torch.tensor([0.2, 1.0, 0.4])


MODEL_TYPES = ["llama", "gpt2", "phi", "qwen3", "gemma2", "mixtral", "olmo2"]


def loss(logprobs: Tensor) -> Tensor:
    return (-logprobs * WEIGHTS).square().sum().log()


def mixed(n_layers: int) -> Tailoring:
    """Some layers merged, some taken."""
    merged = {"merge": "linear", "weights": (1.3, -0.5, 0.2)}
    layers = [
        LayerSpec.of(f"math:{n}")
        if n % 3 == 1
        else LayerSpec.of(f"base:{n}", f"code:{n}", f"math:{n}", **merged)
        for n in range(n_layers)
    ]
    return Tailoring(tuple(layers))


def by_autograd(family: Family, tailoring: Tailoring) -> tuple[float, list[list[float]]]:
    """One forward a passage through a stock model, and its own backward pass."""
    state = {
        name: tensor
        for part in ("embedding", "norm", "head")
        for name, tensor in family.outer_part(part, "base").items()
    }
    for index, spec in enumerate(tailoring.layers):
        sources = [family.layer(source) for source in spec.sources]
        tensors = merge_layer(spec, sources, None, family.dtype)
        state |= {f"{family.layout.layers}.{index}.{n}": t.clone() for n, t in tensors.items()}
    model = model_around(family.config, state, family.dtype).eval().requires_grad_(True)
    sums = []
    for passage in PASSAGES:
        tokens = torch.tensor([passage.context + passage.continuations[0]])
        logprobs = model(input_ids=tokens[:, :-1], use_cache=False).logits[0].log_softmax(-1)
        answer = passage.continuations[0]
        rows = range(len(passage.context) - 1, tokens.shape[1] - 1)
        sums.append(logprobs[list(rows), list(answer)].sum())
    value = loss(torch.stack(sums))
    value.backward()
    stack = model.get_submodule(family.layout.layers)
    slopes = []
    for spec, layer in zip(tailoring.layers, stack, strict=True):
        base = family.layer(LayerSpec.of(f"base:{spec.position}").sources[0])
        row = []
        for member in ("math", "code"):
            theirs = family.layer(LayerSpec.of(f"{member}:{spec.position}").sources[0])
            row.append(
                sum(
                    float((weight.grad * (theirs[name] - base[name])).sum())
                    for name, weight in layer.named_parameters()
                )
            )
        slopes.append(row)
    return float(value.detach()), slopes


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_they_are_those_of_a_stock_model(family_of: Callable[..., Family], model_type: str) -> None:
    family = family_of(model_type)
    engine, tailoring = Engine(family), mixed(family.n_layers)
    value, slopes = by_autograd(family, tailoring)
    engine.run([tailoring], engine.pack(PASSAGES))  # keeps layers of inference mode
    found = member_slopes(engine, tailoring, ["math", "code"], PASSAGES, loss)
    assert found.loss == pytest.approx(value, rel=1e-4)
    torch.testing.assert_close(
        torch.tensor(found.by_layer), torch.tensor(slopes), rtol=2e-3, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_sixteen_bits_they_are_nearly_the_same(
    family_of: Callable[..., Family], dtype: torch.dtype
) -> None:
    family = family_of("llama")
    specs = {name: MemberSpec(path=path) for name, path in family.paths.items()}
    half = load_family(specs.pop("base"), specs, dtype=dtype)
    small = [
        torch.tensor(
            member_slopes(Engine(each), mixed(6), ["math", "code"], PASSAGES, tiny).by_layer
        )
        for each in (family, half)
    ]
    assert torch.linalg.vector_norm(small[0] - small[1]) < 0.1 * torch.linalg.vector_norm(small[0])


def tiny(logprobs: Tensor) -> Tensor:
    """A loss whose gradients are below what float16 can express well."""
    return 1e-4 * loss(logprobs)
