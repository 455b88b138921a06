"""Open a GGUF file, whose weights are made float32 again.

transformers reads the file; nothing in it is run. Knows nothing of other members.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from gptailor.errors import FamilyError
from gptailor.family.architecture import refuse_unsupported
from gptailor.family.checkpoint import state_of
from gptailor.family.files import LIBRARY_FAULTS, one_line, told
from gptailor.family.gguf_header import refuse_broken_gguf
from gptailor.family.layout import Layout
from gptailor.family.licence import licence_of
from gptailor.family.members import OpenedMember
from gptailor.family.quiet import quiet

__all__ = ["open_gguf"]


def open_gguf(path: Path, *, dtype: torch.dtype, origin: str) -> OpenedMember:
    """Open a GGUF file.

    Args:
        path: The file.
        dtype: Of the float tensors; cast from float32 once.
        origin: What to call it to people.

    Raises:
        FamilyError: The file can't be read, or its architecture is not supported.
    """
    refuse_broken_gguf(path)
    model, info = _model_of(path)
    missing = sorted(info["missing_keys"])
    if missing:
        raise FamilyError(f"{path}: the file lacks {len(missing)} tensors ({told(missing)})")
    config = copy.deepcopy(model.config)
    del config.quantization_config  # else what is made from it can't be saved
    refuse_unsupported(config)
    layout = Layout.of(model)
    return OpenedMember(
        where=str(path),
        origin=origin,
        config=config,
        state=state_of(model, layout, dtype),
        tied=layout.tied,
        tokenizer=_tokenizer_of(path),
        generation_config=model.generation_config,
        licence=licence_of(path.parent),
        notes=(f"{origin} is a GGUF file; its weights were made float32 before any other use",),
    )


def _model_of(path: Path) -> tuple[Any, Any]:  # transformers is untyped here
    try:
        with quiet():
            model, info = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
                local_files_only=True,
                attn_implementation="eager",  # weights are wanted, not speed
            )
        return model, info
    except LIBRARY_FAULTS as fault:
        raise FamilyError(f"{path}: the GGUF file can't be read: {one_line(fault)}") from fault


def _tokenizer_of(path: Path) -> Any:  # transformers is untyped here
    try:
        with quiet():
            # what AutoTokenizer finds too, in a twentieth of the time
            return PreTrainedTokenizerFast.from_pretrained(path.parent, gguf_file=path.name)
    except LIBRARY_FAULTS as fault:
        raise FamilyError(f"{path}: its tokenizer can't be read: {one_line(fault)}") from fault
