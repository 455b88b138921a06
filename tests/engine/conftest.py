"""Families of tiny random models of every architecture, and the slow, obvious truth."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.family import Family, MemberSpec, load_family
from gptailor.family.empty_model import model_around
from gptailor.merge import merge_layer
from gptailor.tasks.multiple_choice import ChoiceExample
from gptailor.tasks.task import Passage, TextSize


class ByPosition(nn.Module):
    """Stands at one position of a full-length model and runs other layers, or none, there."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, hidden: Tensor, **arguments: object) -> Tensor:
        for layer in self.layers:
            out = layer(hidden, **arguments)
            hidden = out if isinstance(out, Tensor) else out[0]
        return hidden


def build_by_hand(family: Family, tailoring: Tailoring) -> PreTrainedModel:
    """The whole base model, every layer's weights overwritten or the layer left out.

    Only for tailorings whose layers keep their order: each stands where its position says, so the
    model's own forward gives it the mask and the rotary embedding of that position.
    """
    state = {name: tensor.clone() for name, tensor in family.states[BASE].items()}
    for part, spec in tailoring.outer_parts.items():
        sources = [family.outer_part(part, source.member) for source in spec.sources]
        base = None if spec.base is None else family.outer_part(part, spec.base.member)
        state |= merge_layer(spec, sources, base, family.dtype)
    model = model_around(family.config, state, family.dtype)
    path = family.layout.layers
    layers = model.get_submodule(path)
    standing: dict[int, list[nn.Module]] = {index: [] for index in range(family.n_layers)}
    for spec in tailoring.layers:
        donor = model_around(family.config, family.states[BASE], family.dtype)
        layer = donor.get_submodule(path)[spec.position]
        layer.load_state_dict(_tensors(family, spec), assign=True)
        standing[spec.position].append(layer)
    for index in range(family.n_layers):
        layers[index] = ByPosition(standing[index])
    return model.eval()


def _tensors(family: Family, spec: LayerSpec) -> dict[str, Tensor]:
    sources = [family.layer(source) for source in spec.sources]
    base = None if spec.base is None else family.layer(spec.base)
    return merge_layer(spec, sources, base, family.dtype)


@torch.inference_mode()
def logprobs_by_hand(model: PreTrainedModel, passages: list[Passage]) -> list[list[float]]:
    """One forward a continuation: the sum of its tokens' log-probabilities."""
    told = []
    for passage in passages:
        row = []
        for continuation in passage.continuations:
            tokens = torch.tensor([passage.context + continuation])
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0].float()
            logprobs = logits.log_softmax(-1)[len(passage.context) - 1 :]
            row.append(float(logprobs[range(len(continuation)), list(continuation)].sum()))
        told.append(row)
    return told


@pytest.fixture(scope="session")
def family_of(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Family]:
    """Factory: a base and two variants of an architecture, loaded in float32."""
    known: dict[str, Family] = {}

    def make(model_type: str, **overrides: object) -> Family:
        key = f"{model_type} {sorted(overrides.items())}"
        if key not in known:
            root: Path = tmp_path_factory.mktemp(model_type)
            for seed, name in enumerate(("base", "math", "code")):
                tiny_model(model_type, seed=seed, **overrides).save_pretrained(root / name)
                tiny_tokenizer.save_pretrained(root / name)
            variants = {name: MemberSpec(path=str(root / name)) for name in ("math", "code")}
            known[key] = load_family(
                MemberSpec(path=str(root / "base")), variants, dtype=torch.float32
            )
        return known[key]

    return make


@pytest.fixture
def by_hand() -> Callable[[Family, Tailoring, list[Passage]], list[list[float]]]:
    """The slow truth: ``by_hand(family, tailoring, passages)``."""

    def run(family: Family, tailoring: Tailoring, passages: list[Passage]) -> list[list[float]]:
        return logprobs_by_hand(build_by_hand(family, tailoring), passages)

    return run


@pytest.fixture(scope="session")
def choice_example() -> Callable[[int], ChoiceExample]:
    """Factory: a question with two to four choices, drawn from its number."""

    def make(number: int) -> ChoiceExample:
        rng = np.random.default_rng(number)

        def tokens(low: int, high: int) -> tuple[int, ...]:
            return tuple(int(t) for t in rng.integers(3, 300, rng.integers(low, high)))

        choices = tuple(tokens(1, 6) for _ in range(rng.integers(2, 5)))
        passage = Passage(tokens(2, 20), choices)
        places = tuple((0, index) for index in range(len(choices)))
        sizes = tuple(TextSize(len(one), len(one), 1, 2 * len(one)) for one in choices)
        return ChoiceExample((passage,), places, (0,), sizes, answer=sizes[0])

    return make
