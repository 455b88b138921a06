"""Write a tailoring as one GGUF file for llama.cpp, read back before it appears.

Layers are assembled, brought into llama.cpp's layout, cast and written one at a time, by the `gguf`
library of llama.cpp's authors. Then the file is read back and each tensor is compared.
"""

import errno
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import (
    GGML_QUANT_SIZES,
    GGML_QUANT_VERSION,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
    quants,
)
from torch import Tensor
from transformers import PreTrainedConfig

from gptailor.core.tailoring import Tailoring
from gptailor.errors import ExportError, FamilyError
from gptailor.export.card import paths_only
from gptailor.export.folder import replacing_file
from gptailor.export.gguf.metadata import (
    add_numbers,
    context_of,
    every_sixth_is_full,
    whole_context_of,
)
from gptailor.export.gguf.tensor_layout import (
    architecture_of,
    extra_tensors,
    fields_of,
    reshaped,
)
from gptailor.export.gguf.tokenizer import name_in_file, vocabulary_of
from gptailor.export.narrow import Narrowing, narrowing
from gptailor.family import Family, layers_path, tailored_config
from gptailor.family.empty_model import skeleton_of
from gptailor.family.family import layer_weights, outer_weights
from gptailor.family.gguf.gguf_header import read_gguf_header

__all__ = ["GGUF_DTYPES", "export_gguf"]

logger = logging.getLogger(__name__)

GGUF_DTYPES = {
    "f16": (LlamaFileType.MOSTLY_F16, GGMLQuantizationType.F16),
    "bf16": (LlamaFileType.MOSTLY_BF16, GGMLQuantizationType.BF16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, GGMLQuantizationType.Q8_0),
    "f32": (LlamaFileType.ALL_F32, GGMLQuantizationType.F32),
}
_OURS = "gptailor.core.tailoring"  # the key of the exact tailoring
_HEADER_BYTES = 4096  # our files have that key within these
_FULL = ("ffn_gate_inp", "ffn_gate_inp_shexp", "position_embd")  # float32 in llama.cpp
_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


@dataclass(frozen=True, slots=True)
class _Made:
    """One tensor of the file: its name, its values in float32, and its stored type."""

    name: str
    tensor: Tensor
    kind: GGMLQuantizationType

    @property
    def stored(self) -> Any:  # numpy is untyped through gguf
        """Its bytes, as an array; refused where a value is not finite in that type."""
        array = self.tensor.contiguous().numpy()
        with np.errstate(over="ignore"):
            cast = quants.quantize(array, self.kind)
        if not np.isfinite(quants.dequantize(cast, self.kind)).all():
            raise ExportError(
                f"--dtype: {self.name} holds values that are not finite in "
                f"{self.kind.name.lower()}; use bf16 or f32, or choose another tailoring"
            )
        return cast


def export_gguf(  # noqa: PLR0913  # what to export, and options that have defaults
    family: Family,
    tailoring: Tailoring,
    file: Path,
    *,
    dtype: str = "f16",
    name: str | None = None,
    overwrite: bool = False,
    keep: Collection[Path] = (),
) -> None:
    """Write a tailoring as a GGUF file, read back before it appears.

    Norms, biases and routers are float32, as llama.cpp needs them; in q8_0 a matrix whose row
    length is no multiple of 32 is float16.

    Args:
        family: The members.
        tailoring: The model to write.
        file: Its path; an earlier export, and only that, is replaced.
        dtype: Of the matrices: "f16", "bf16", "q8_0" or "f32".
        name: The model's name; the file's when None.
        overwrite: Whether a file that no export wrote may be replaced.
        keep: Files and folders that must survive: the run, the config, the tasks.

    Raises:
        TailoringError: The tailoring does not fit the family.
        ExportError: llama.cpp can't run such a model or tokenizer, or the file can't be written.
    """
    if dtype not in GGUF_DTYPES:
        raise ExportError(f"{dtype!r}: a GGUF file is written in one of {', '.join(GGUF_DTYPES)}")
    family.check(tailoring)
    config = tailored_config(family.config, [spec.position for spec in tailoring.layers])
    narrow = narrowing(family, tailoring)
    config = config if narrow is None else narrow.config(config)
    plan = _Plan(family, tailoring, config, dtype, narrow)
    most, context = whole_context_of(config), context_of(config, plan.known)
    if context < most:
        logger.warning(
            "llama.cpp runs %s without sliding windows; the file says that it takes %d tokens, "
            "as many as a window holds, instead of %d",
            config.model_type,
            context,
            most,
        )
    if config.model_type == "gemma3_text" and not every_sixth_is_full(config):
        logger.warning(
            "Ollama's own engine takes every sixth layer of Gemma 3 for one with full attention, "
            "and this model has them elsewhere; run it with llama.cpp's programs or LM Studio"
        )
    writer = plan.header(name or file.stem)
    needed = [*keep, *paths_only(family.paths)]
    with replacing_file(
        file,
        is_ours=_is_ours,
        overwrite=overwrite,
        keep=needed,
        n_bytes=sum(info.nbytes for info in writer.tensors[0].values()),
    ) as beside:
        try:
            writer.write_header_to_file(beside)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for made in plan.tensors():
                writer.write_tensor_data(made.stored)
            n_written = writer.fout[0].tell() if writer.fout else 0
        finally:
            writer.close()
        if beside.stat().st_size < n_written:  # the library does not report a full disk
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _check(beside, plan)


class _Plan:
    """The contents of the file, in order; used twice, for writing and for checking."""

    def __init__(
        self,
        family: Family,
        tailoring: Tailoring,
        config: PreTrainedConfig,
        dtype: str,
        narrow: Narrowing | None,
    ) -> None:
        self.family, self.tailoring, self.config = family, tailoring, config
        self.narrow = narrow
        self.known, self.dtype = architecture_of(config), dtype
        self.fields = fields_of(config)
        self.path = layers_path(skeleton_of(family.config, torch.float32))
        self.names = get_tensor_name_map(self.known.arch, len(tailoring.layers))

    def header(self, name: str) -> GGUFWriter:
        """A writer with everything but the weights' values."""
        arch = MODEL_ARCH_NAMES[self.known.arch]
        writer = GGUFWriter(path=None, arch=arch)
        writer.add_string(_OURS, self.tailoring.to_yaml())
        writer.add_type(GGUFType.MODEL)
        writer.add_name(name_in_file(name, self.family.tokenizer))
        if self.family.licence is not None:
            writer.add_license(self.family.licence)
        writer.add_file_type(GGUF_DTYPES[self.dtype][0])
        writer.add_quantization_version(GGML_QUANT_VERSION)
        add_numbers(writer, self.config, self.known)
        shapes = list(self.tensors(shapes_only=True))
        n_rows = next(made.tensor.shape[0] for made in shapes if made.name == _EMBEDDING)
        vocabulary_of(self.family.tokenizer, n_rows, self._ends()).add_to(writer)
        for made in shapes:
            block, n_bytes = GGML_QUANT_SIZES[made.kind]
            writer.add_tensor_info(
                made.name,
                made.tensor.shape,
                np.dtype(np.float32),  # the shape counts elements, not bytes
                made.tensor.numel() // block * n_bytes,
                raw_dtype=made.kind,
            )
        return writer

    def tensors(self, *, shapes_only: bool = False) -> Iterator[_Made]:
        """Each tensor of the file in turn; for shapes only, nothing is merged."""
        tied: Tensor | None = None
        has_head = False
        for name, tensor in self._members(shapes_only=shapes_only):
            for theirs, made in reshaped(self.known, name, tensor, self.fields):
                new = self._name(theirs)
                has_head |= new == _HEAD
                tied = made if new == _EMBEDDING else tied
                yield _Made(new, made, self._kind(new, made))
        if self.known.needs_head and not has_head and tied is not None:
            yield _Made(_HEAD, tied, self._kind(_HEAD, tied))
        for new, made in extra_tensors(self.fields).items():
            empty = made.to("meta") if shapes_only else made
            yield _Made(new, empty, GGMLQuantizationType.F32)

    def _members(self, *, shapes_only: bool) -> Iterator[tuple[str, Tensor]]:
        """The tailored model's tensors in float32 by transformers' names."""
        family = self.family
        for part, spec in self.tailoring.outer_parts.items():
            if shapes_only:
                found = family.outer_part(part, spec.sources[0].member)
            else:
                found = outer_weights(family, part, spec, torch.float32)
            yield from ((name, _plain(tensor, shapes_only)) for name, tensor in found.items())
        for index, spec in enumerate(self.tailoring.layers):
            if shapes_only:
                found = family.layer(spec.sources[0])
            else:
                found = layer_weights(family, spec, torch.float32)
            if self.narrow is not None:
                found = self.narrow.layer(index, found)
            for name, tensor in found.items():
                yield f"{self.path}.{index}.{name}", _plain(tensor, shapes_only)

    def _name(self, name: str) -> str:
        new = self.names.get_name(name, try_suffixes=(".weight", ".bias"))
        stem = "" if new is None else new.removesuffix(".bias").rpartition(".")[2]
        if new is not None and new.endswith(".bias"):
            allowed = (*self.known.biases, "attn_q", "attn_k", "attn_v")
            new = new if stem in allowed else None
        if new is None:
            raise ExportError(
                f"--format gguf: llama.cpp's {MODEL_ARCH_NAMES[self.known.arch]} has no place for "
                f"{name}; use --format hf"
            )
        return str(new)

    def _kind(self, new: str, tensor: Tensor) -> GGMLQuantizationType:
        stem = new.split(".")[-2]
        if tensor.ndim < 2 or stem.endswith("_norm") or stem in _FULL:
            return GGMLQuantizationType.F32
        kind = GGUF_DTYPES[self.dtype][1]
        fits = tensor.shape[-1] % GGML_QUANT_SIZES[kind][0] == 0
        return kind if fits else GGMLQuantizationType.F16

    def _ends(self) -> tuple[int, ...]:
        known = self.family.generation_config
        ends = None if known is None else known.eos_token_id
        return tuple(ends) if isinstance(ends, list | tuple) else ()


def _plain(tensor: Tensor, shapes_only: bool) -> Tensor:
    return tensor.to("meta" if shapes_only else "cpu", torch.float32).detach()


def _is_ours(file: Path) -> bool:
    """Whether an export wrote it: it has our key among its first."""
    with file.open("rb") as opened:
        start = opened.read(_HEADER_BYTES)
    return start.startswith(b"GGUF") and _OURS.encode() in start


def _check(file: Path, plan: _Plan) -> None:
    """Read a file back and compare every tensor with what was to be written."""
    try:
        read_gguf_header(file)
    except FamilyError as error:
        raise ExportError(f"the file that was written can't be read back: {error}") from error
    found = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    for made in plan.tensors():
        theirs = found.pop(made.name, None)
        if theirs is None or theirs.tensor_type != made.kind:
            raise ExportError(f"the file that was written lacks {made.name}; write it again")
        values = quants.dequantize(theirs.data, made.kind)
        wanted = made.tensor.numpy()
        if values.shape != wanted.shape or not _agrees(values, wanted, made.kind):
            raise ExportError(
                f"the file that was written has another {made.name} than was made; write it again"
            )
    if found:
        raise ExportError(f"the file that was written holds {sorted(found)[0]} too; write it again")


def _agrees(found: Any, wanted: Any, kind: GGMLQuantizationType) -> bool:
    """Whether the values read are the wanted ones, as far as the type is exact."""
    if kind != GGMLQuantizationType.Q8_0:  # rounded by torch, not by the library that wrote it
        dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        rounded = torch.from_numpy(wanted).to(dtypes[kind.name]).float().numpy()
        return bool(np.array_equal(found, rounded))
    blocks = wanted.reshape(-1, GGML_QUANT_SIZES[kind][0])
    # half a step of 1/127 of the block's largest; the step itself is a float16
    limit = np.abs(blocks).max(axis=1, keepdims=True) * (0.5 / 127 + 2**-10) + 1e-7
    return bool((np.abs(found.reshape(blocks.shape) - blocks) <= limit).all())
