"""Open a GGUF file; its weights are dequantised to float32.

transformers reads the file; nothing in it is run. What transformers silently ignores (factors of
rotary embeddings, windows, caps, tensors that it has no place for) is read here or refused.
"""

import copy
import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.modeling_gguf_pytorch_utils import (
    GGUF_SUPPORTED_ARCHITECTURES,
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from gptailor.errors import FamilyError, listed
from gptailor.family.architecture import facts, refuse_unsupported
from gptailor.family.checkpoint_reader import model_from_files, state_of
from gptailor.family.family import OpenedMember
from gptailor.family.gguf.gguf_header import GgufHeader, read_gguf_header
from gptailor.family.gguf.rope import ROPE_FACTORS, rope_from_gguf
from gptailor.family.layout import Layout
from gptailor.family.library_calls import library_call
from gptailor.family.locate import licence_of

__all__ = ["open_gguf"]

# keys that transformers does not read; they end with their fields in a config
_MORE_FIELDS = ("attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
_FLOATS = frozenset(["F32", "F16", "BF16"])
_TOKENS = "tokenizer.ggml.model"


def open_gguf(file: Path, *, dtype: torch.dtype, path: str) -> OpenedMember:
    """Open a GGUF file; its tensors are cast from float32 once; `path` is the one in the config."""
    header = read_gguf_header(file)
    _refuse_architecture(file, header)
    with _read_once():
        model = model_from_files(AutoModelForCausalLM, file.parent, torch.float32, file.name)
        _refuse_unread(file, header, model)
        factors = _rope_factors(file, header)
    config = copy.deepcopy(model.config)
    del config.quantization_config  # else what is made from it can't be saved
    for key in _MORE_FIELDS:
        field, value = key.rpartition(".")[2], header.about(key)
        if isinstance(value, float) and field in config.to_dict():
            setattr(config, field, int(value) if field == "sliding_window" else value)
    rope_from_gguf(file, header, config, factors)
    refuse_unsupported(config)
    layout = Layout.of(model)
    return OpenedMember(
        location=str(file),
        path=path,
        config=config,
        state=state_of(model, layout, dtype),
        tied=layout.tied,
        tokenizer=_tokenizer_of(file) if _TOKENS in header.values else None,
        generation_config=model.generation_config,
        licence=licence_of(file.parent),
        stored=_stored(header),
    )


@contextmanager
def _read_once() -> Iterator[None]:
    """Cache, for a moment, what transformers makes again and again of one file.

    That is the reader, made once for the config and once for the weights, which takes seconds for
    the vocabulary alone (it slices a memmap several times a token), and the list of all names of
    tensors, made once a module. `gguf` is as before afterwards; see decision 0026.
    """
    import gguf

    class PlainReader(gguf.GGUFReader):  # type: ignore[misc]  # gguf is untyped here
        @property
        def data(self) -> np.ndarray:
            return self._plain

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._plain = np.asarray(mapped)

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = functools.cache(PlainReader)
    gguf.get_tensor_name_map = functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


def _stored(header: GgufHeader) -> str:
    """The types that the tensors are stored in: the rest of a sentence."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    counts = Counter(header.types.values())
    words = []
    for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
        bits = "" if kind in _FLOATS else f" ({8 * n_bytes / block:.3g} bits a weight)"
        words.append(f"{count} as {kind}{bits}")
    quantised = any(kind not in _FLOATS for kind in counts)
    lost = "; what the quantisation lost stays lost" if quantised else ""
    return f"is a GGUF file of {len(header.types)} tensors, {', '.join(words)}{lost}"


def _refuse_architecture(path: Path, header: GgufHeader) -> None:
    in_files = facts().gguf_names
    known = {
        in_files.get(name, name)
        for name in GGUF_SUPPORTED_ARCHITECTURES
        if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or f"{name}_text" in in_files
    }
    if header.architecture not in known:
        raise FamilyError(
            f"{path}: its architecture is {header.architecture!r}, which transformers does not "
            f"read from GGUF as a causal language model (it reads {', '.join(sorted(known))}); "
            "give the original checkpoint"
        )


def _refuse_unread(path: Path, header: GgufHeader, model: Any) -> None:
    """Refuse a file with tensors that transformers did not read."""
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
    names = get_gguf_hf_weights_map(model, processor(config={}))
    read = {*names, *(f"{name}.weight" for name in names), "output.weight", *ROPE_FACTORS}
    unread = sorted(header.types.keys() - read)
    if unread:
        raise FamilyError(
            f"{path}: {len(unread)} of its tensors have no place in transformers' "
            f"{model.config.model_type} ({listed(unread)}), so that it would compute something "
            "else; give the original checkpoint"
        )


def _rope_factors(path: Path, header: GgufHeader) -> dict[str, np.ndarray]:
    """The file's factors of rotary frequencies, by the tensors' names."""
    from gguf import GGUFReader

    tensors = GGUFReader(path).tensors if ROPE_FACTORS & header.types.keys() else []
    return {
        tensor.name: np.array(tensor.data, dtype=np.float64)
        for tensor in tensors
        if tensor.name in ROPE_FACTORS
    }


def _tokenizer_of(path: Path) -> Any:  # transformers is untyped here
    with library_call(f"{path}: its tokenizer can't be read"):
        # AutoTokenizer finds the same in twenty times the time
        return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
