"""Tiny models made on the spot, shared by all tests: no network, one thread, one seed.

What is large is imported where it is needed: the process that only deals tests out to others, and
imports this file before it starts them, needs none of it.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

pytest_plugins = ["recorded_runs", "studies"]  # in fixtures/

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from gptailor.family import Family

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
gc.disable()  # until all is collected: what is imported stays, so no garbage is to be found in it

# how many examples Hypothesis draws; a test that is quick or slow takes a multiple or a part
settings.register_profile("whole", max_examples=50, deadline=None)
settings.register_profile("fast", max_examples=10, deadline=None)
settings.load_profile("whole")

N_LAYERS = 6
VOCAB = 320  # 256 bytes, three special tokens, and merges
TEXTS = (
    "The capital of France is Paris. The capital of Italy is Rome.",
    "Two and three make five. Seven minus four is three.",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
    "Gold has the symbol Au and iron has the symbol Fe.",
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<s>{{ message['role'] }}: {{ message['content'] }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
)

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "tie_word_embeddings": False,
}
_MIXED = ["sliding_attention", "sliding_attention", "full_attention"] * 2
# what each architecture needs on top: mixed layers wherever it can have them, short windows
_OWN: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"layer_types": _MIXED, "use_sliding_window": True, "sliding_window": 4},
    "qwen3": {"layer_types": _MIXED, "use_sliding_window": True, "sliding_window": 4},
    "gemma2": {"layer_types": ["sliding_attention", "full_attention"] * 3, "sliding_window": 4},
    "gemma3_text": {"layer_types": _MIXED, "sliding_window": 4},
    "mistral": {"sliding_window": 4},
    "phi3": {},
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 1, 0, 1, 1, 0]},
    "gpt_neox": {},
}
_LACKS = {  # fields of `_COMMON` that the architecture does not have
    "qwen2": ("head_dim",),
    "phi3": ("head_dim",),
    "olmo2": ("head_dim",),
    "smollm3": ("head_dim",),
    "gpt_neox": ("head_dim", "num_key_value_heads"),
    "falcon": ("head_dim", "num_key_value_heads"),
}


def pytest_collection_finish() -> None:
    """Look for garbage again: not in what was imported, and less often than Python would."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `sampled` leaves out of the fast part."""
    n_seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is None:
            continue
        test = item.nodeid.partition("[")[0]
        if n_seen[test] % mark.args[0]:
            item.add_marker("slow")
        n_seen[test] += 1


@dataclass(frozen=True)
class PicoFamily:
    """Folders of a base and three variants: 6 layers, hidden 32, Llama, untied, float32."""

    base: Path
    variants: Mapping[str, Path]


def _randomise(model: PreTrainedModel, seed: int) -> None:
    """Draw every weight from N(0, 0.3), so that each layer matters."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def make_tiny_model(model_type: str, *, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A tiny random model in float32, in eval mode."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    known = {k: v for k, v in _COMMON.items() if k not in _LACKS.get(model_type, ())}
    fields = known | _OWN.get(model_type, {}) | overrides
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))
    _randomise(model, seed)
    return model.float().eval()


def make_tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of 320 tokens that can read any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_pico_family(
    root: Path, tokenizer: PreTrainedTokenizerFast, n_layers: int = N_LAYERS
) -> PicoFamily:
    """Save a base and variants: ``math``, ``code`` and ``chat`` move every weight but the norms."""
    import torch

    def save(name: str, model: PreTrainedModel) -> Path:
        model.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
        return root / name

    base = make_tiny_model("llama", num_hidden_layers=n_layers)
    folders = {"base": save("base", base)}
    for seed, name in enumerate(("math", "code", "chat"), start=1):
        variant = make_tiny_model("llama", num_hidden_layers=n_layers)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in variant.parameters():
                if parameter.ndim > 1:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        folders[name] = save(name, variant)
    return PicoFamily(folders.pop("base"), folders)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., PreTrainedModel]:
    """Factory: ``tiny_model("qwen3", seed=1, **config overrides)``."""
    return make_tiny_model


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return make_tiny_tokenizer()


@pytest.fixture(scope="session")
def pico_family(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast
) -> PicoFamily:
    """Six layers, saved once a session."""
    root = tmp_path_factory.mktemp("pico family")  # a space in the path, as users have
    return save_pico_family(root, tiny_tokenizer)


@pytest.fixture(scope="session")
def low_family(
    tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast
) -> PicoFamily:
    """The pico family with two layers, for what asks a family for little and often."""
    return save_pico_family(tmp_path_factory.mktemp("low family"), tiny_tokenizer, n_layers=2)


@pytest.fixture(scope="session")
def pico(pico_family: PicoFamily) -> Family:
    """The pico family, loaded in float32; read only."""
    import torch

    from gptailor.family import MemberSpec, load_family

    variants = {name: MemberSpec(path=str(path)) for name, path in pico_family.variants.items()}
    return load_family(MemberSpec(path=str(pico_family.base)), variants, dtype=torch.float32)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder of public texts and adapters; the test is skipped where it is missing."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("GPTAILOR_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    return folder


@pytest.fixture
def run_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: words to exit code, stdout and stderr."""
    from gptailor.cli import main

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gptailor", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    return run


@pytest.fixture
def files_of_at_most() -> Callable[[int], AbstractContextManager[None]]:
    """Let the kernel refuse longer files, as a full disk would: ``with files_of_at_most(100):``."""

    @contextmanager
    def limited(n_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
