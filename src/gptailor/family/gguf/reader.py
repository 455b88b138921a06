"""Open a GGUF file, whose weights are made float32 again.

transformers reads the file; nothing in it is run. What transformers would pass over without a word
(factors of rotary embeddings, windows, caps, tensors it has no place for) is read here or refused.
Knows nothing of other members.
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

from gptailor.errors import FamilyError
from gptailor.family.architecture import refuse_unsupported
from gptailor.family.checkpoint import refuse_misfits, state_of
from gptailor.family.gguf.gguf_header import GgufHeader, read_gguf_header
from gptailor.family.gguf.rope import ROPE_FACTORS, rope_from_gguf
from gptailor.family.layout import Layout
from gptailor.family.licence import licence_of
from gptailor.family.members import OpenedMember
from gptailor.family.quiet import quiet
from gptailor.family.weight_files import LIBRARY_ERRORS, one_line, told

__all__ = ["open_gguf"]

# transformers' names -> the files'
_IN_FILES = {
    "gemma3_text": "gemma3",
    "gpt_oss": "gpt-oss",
    "minimax_m2": "minimax-m2",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}
# what transformers does not read and a config can say
_MORE_FIELDS = {
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_FLOATS = frozenset(["F32", "F16", "BF16"])
_TOKENS = "tokenizer.ggml.model"


def open_gguf(path: Path, *, dtype: torch.dtype, origin: str) -> OpenedMember:
    """Open a GGUF file.

    Args:
        path: The file.
        dtype: Of the float tensors; cast from float32 once.
        origin: What to call it to people.

    Raises:
        FamilyError: The file can't be read, or its architecture is not supported.
    """
    header = read_gguf_header(path)
    _refuse_architecture(path, header)
    with _read_once():
        model, info = _model_of(path)
        refuse_misfits(path, info, "file")
        _refuse_unread(path, header, model)
        factors = _rope_factors(path, header)
    config = copy.deepcopy(model.config)
    del config.quantization_config  # else what is made from it can't be saved
    for key, field in _MORE_FIELDS.items():
        if header.about(key) is not None and field in config.to_dict():
            value = float(header.about(key) or 0)
            setattr(config, field, int(value) if field == "sliding_window" else value)
    rope_from_gguf(path, header, config, factors)
    refuse_unsupported(config)
    layout = Layout.of(model)
    return OpenedMember(
        where=str(path),
        origin=origin,
        config=config,
        state=state_of(model, layout, dtype),
        tied=layout.tied,
        tokenizer=_tokenizer_of(path) if _TOKENS in header.values else None,
        generation_config=model.generation_config,
        licence=licence_of(path.parent),
        stored=_stored(header),
    )


@contextmanager
def _read_once() -> Iterator[None]:
    """Keep what transformers makes again and again of one file: its reader, and lists of names.

    The config and the weights are each read with a reader of their own, which takes seconds for the
    vocabulary alone: it slices a memmap, a slow kind of array, several times for each token. The
    list of all names that tensors can have is made for each module.
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
    """Say which types the tensors are stored in, and what that costs."""
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
    known = {
        _IN_FILES.get(name, name)
        for name in GGUF_SUPPORTED_ARCHITECTURES
        if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or f"{name}_text" in _IN_FILES
    }
    if header.architecture not in known:
        raise FamilyError(
            f"{path}: its architecture is {header.architecture!r}, which transformers does not "
            f"read from GGUF as a causal language model (it reads {', '.join(sorted(known))}); "
            "give the original checkpoint"
        )


def _refuse_unread(path: Path, header: GgufHeader, model: Any) -> None:
    """Refuse a file with tensors that transformers passed over."""
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)
    places = get_gguf_hf_weights_map(model, processor(config={}))
    read = {*places, *(f"{name}.weight" for name in places), "output.weight", *ROPE_FACTORS}
    unread = sorted(header.types.keys() - read)
    if unread:
        raise FamilyError(
            f"{path}: {len(unread)} of its tensors have no place in transformers' "
            f"{model.config.model_type} ({told(unread)}), so that it would compute something "
            "else; give the original checkpoint"
        )


def _rope_factors(path: Path, header: GgufHeader) -> dict[str, np.ndarray]:
    """The factors of rotary frequencies that the file holds, by the tensors' names."""
    if not ROPE_FACTORS & header.types.keys():
        return {}
    from gguf import GGUFReader

    return {
        tensor.name: np.array(tensor.data, dtype=np.float64)
        for tensor in GGUFReader(path).tensors
        if tensor.name in ROPE_FACTORS
    }


def _model_of(path: Path) -> tuple[Any, Any]:  # transformers is untyped here
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # told by us, all at once
                trust_remote_code=False,
                local_files_only=True,
                attn_implementation="eager",  # weights are wanted, not speed
            )
        return model, info
    except LIBRARY_ERRORS as error:
        raise FamilyError(f"{path}: the GGUF file can't be read: {one_line(error)}") from error


def _tokenizer_of(path: Path) -> Any:  # transformers is untyped here
    try:
        with quiet():
            # what AutoTokenizer finds too, in a twentieth of the time
            return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # the tokenizers library raises bare Exception
        raise FamilyError(f"{path}: its tokenizer can't be read: {one_line(error)}") from error
