"""Tiny models of every architecture in the table, their families, and the slow, obvious truth."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.family import Family, MemberSpec, layers_path, load_family
from gptailor.family.layout import Layout

TABLE: Mapping[str, Any] = yaml.safe_load(
    (Path(__file__).parent / "tiny.yaml").read_text(encoding="utf-8")
)
MEMBERS = ("base", "math", "code")
VOCAB = TABLE["common"]["vocab_size"]


@dataclass(frozen=True)
class LoadedTask:
    """A family, and its members as plain models."""

    family: Family
    models: Mapping[str, PreTrainedModel]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "opened" in metafunc.fixturenames:
        metafunc.parametrize("model_type", TABLE["architectures"])


def fields_of(model_type: str) -> dict[str, Any]:
    """The tiny config of an architecture; null leaves a common field out."""
    fields = TABLE["common"] | TABLE["architectures"][model_type]
    return {name: value for name, value in fields.items() if value is not None}


def randomised(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Draw every weight, and what is saved beside weights, from N(0, 0.3): each layer matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return model.float().eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of as many words as the models have rows."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words)


def saved_family(made: Mapping[str, PreTrainedModel], root: Path) -> Family:
    """Save the models as checkpoints and load them as a family in float32."""
    for member, model in made.items():
        model.save_pretrained(root / member)
    tiny_tokenizer().save_pretrained(root / "base")
    sources = {member: MemberSpec(path=str(root / member)) for member in made}
    return load_family(sources.pop("base"), sources, dtype=torch.float32)


def built_by_hand(made: Mapping[str, PreTrainedModel], tailoring: Tailoring) -> PreTrainedModel:
    """The whole base model, in which the tailoring's layers run where the last one stood.

    Every position hands the hidden state on and notes what it is called with; each layer of the
    tailoring is then called as its own position was. So masks, windows and rotary embeddings are
    those that the untouched model gives to the position a layer comes from.
    """
    model = copy.deepcopy(made["base"])
    path = layers_path(model)
    donors = {member: donor.get_submodule(path) for member, donor in made.items()}
    layers = [_layer(donors, spec) for spec in tailoring.layers]
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def replace(position: int, own: nn.Module) -> None:
        was = own.forward

        def forward(hidden: Tensor, *args: Any, **arguments: Any) -> Any:
            calls.append((args, arguments))
            told = was(hidden, *args, **arguments)  # for the kind of answer
            if position == len(donors["base"]) - 1:
                for spec, layer in zip(tailoring.layers, layers, strict=True):
                    args, arguments = calls[spec.position]
                    out = layer(hidden, *args, **arguments)
                    hidden = out if isinstance(out, Tensor) else out[0]
                calls.clear()
            return hidden if isinstance(told, Tensor) else (hidden, *told[1:])

        own.forward = forward

    for position, own in enumerate(model.get_submodule(path)):
        replace(position, own)
    return model.eval()


def _layer(donors: Mapping[str, Any], spec: LayerSpec) -> nn.Module:
    """The base's layer of a spec's position, holding one member's weights or a sum of two."""
    layer = copy.deepcopy(donors["base"][spec.position])
    states = [donors[source.member][source.layer].state_dict() for source in spec.sources]
    if spec.method is None:
        layer.load_state_dict(states[0])
        return layer
    base, scale = layer.state_dict(), dict(spec.params)["scale"]
    one, other = states
    layer.load_state_dict(
        {n: base[n] + scale * ((one[n] - base[n]) + (other[n] - base[n])) for n in base}
    )
    return layer


@pytest.fixture
def opened(model_type: str, tmp_path: Path) -> LoadedTask:
    """Three random models of an architecture, saved and loaded as a family."""
    config = AutoConfig.for_model(model_type, **fields_of(model_type))
    with torch.random.fork_rng(devices=[]):
        made = {
            member: randomised(AutoModelForCausalLM.from_config(copy.deepcopy(config)), seed)
            for seed, member in enumerate(MEMBERS)
        }
    return LoadedTask(saved_family(made, tmp_path), made)


@pytest.fixture
def by_hand() -> Callable[[Mapping[str, PreTrainedModel], Tailoring], PreTrainedModel]:
    """The slow truth: ``by_hand(models, tailoring)``."""
    return built_by_hand


@pytest.fixture
def family_around() -> Callable[[Mapping[str, PreTrainedModel], Path], Family]:
    """Save models below a folder and load them: ``family_around(models, folder)``."""
    return saved_family


@pytest.fixture(scope="session")
def tiny_fields() -> Callable[[str], dict[str, Any]]:
    """The tiny config's fields of an architecture."""
    return fields_of


@pytest.fixture(scope="session")
def family_in_memory() -> Callable[..., Family]:
    """Factory: random members of a model type, in memory; no file is written."""

    def make(model_type: str, fields: Mapping[str, Any], members: Sequence[str]) -> Family:
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))
        states = {
            member: {n: t.clone() for n, t in randomised(model, seed).state_dict().items()}
            for seed, member in enumerate(members)
        }
        return Family(
            config=model.config,
            layout=Layout.of(model),
            dtype=torch.float32,
            states=states,
            paths=dict.fromkeys(states, "memory"),
        )

    return make


@pytest.fixture(scope="session")
def tiny_words() -> PreTrainedTokenizerFast:
    """A tokenizer of as many words as the models have rows."""
    return tiny_tokenizer()


@pytest.fixture(scope="session")
def randomise() -> Callable[[PreTrainedModel, int], PreTrainedModel]:
    """Draw a model's weights: ``randomise(model, seed)``."""
    return randomised
