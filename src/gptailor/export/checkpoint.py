"""Write a tailoring as a stock checkpoint, which loads without GPTailor.

transformers saves the smaller model, so tied weights, names of experts and shards are as in its own
checkpoints. Added are the tokenizer, the generation config, ``tailoring.yaml`` and the model card.
The folder appears whole or not at all, and only after it was read back and compared.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gptailor.core.tailoring import Tailoring
from gptailor.errors import ExportError
from gptailor.export.card import CardFacts, model_card, paths_only
from gptailor.export.folder import MANIFEST, replacing_folder
from gptailor.export.narrow import Narrowing, narrowing
from gptailor.export.older_readers import add_older_keys
from gptailor.export.read_back import check_checkpoint
from gptailor.family import Family, tailored_config
from gptailor.family.empty_model import auto_class, skeleton_of
from gptailor.family.family import layer_weights, outer_weights
from gptailor.family.fitted import FOLDER
from gptailor.family.library_calls import quiet

__all__ = ["SAVED_DTYPES", "card_facts", "export_checkpoint", "tailored_weights", "write_weights"]

SAVED_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROGRAMS = ("gptailor", "torch", "transformers")
_OURS = ("README.md", "tailoring.yaml", MANIFEST)


def export_checkpoint(  # noqa: PLR0913  # two things to export, and options that have defaults
    family: Family,
    tailoring: Tailoring,
    folder: Path,
    *,
    card: str | None = None,
    extra_files: Mapping[str, str] = {},
    dtype: torch.dtype | None = None,
    shard_bytes: int = 5_000_000_000,
    overwrite: bool = False,
    keep: Collection[Path] = (),
) -> None:
    """Write a tailoring as a stock Hugging Face checkpoint, checked before it appears.

    Args:
        family: The members.
        tailoring: The model to write.
        folder: Its path; an earlier export, and only that, is replaced.
        card: The text of README.md; a card without scores when None.
        extra_files: Name to text of further files.
        dtype: Of the weights on disk; the family's own when None.
        shard_bytes: The most bytes of one safetensors file.
        overwrite: Whether a folder with files that no export wrote may be replaced.
        keep: Files and folders that must survive: the run, the config, the tasks.

    Raises:
        TailoringError: The tailoring does not fit the family.
        ExportError: The folder can't be written or replaced, or the stock model of this
            architecture can't express the tailoring.
    """
    dtype = family.dtype if dtype is None else dtype
    _refuse_options(dtype, shard_bytes, extra_files)
    family.check(tailoring)
    n_bytes = _n_parameters(family, tailoring)[1] * dtype.itemsize
    needed = [*keep, *paths_only(family.paths)]
    with (
        quiet(),
        replacing_folder(folder, overwrite=overwrite, keep=needed, n_bytes=n_bytes) as beside,
    ):
        write_weights(family, tailoring, beside, dtype=dtype, shard_bytes=shard_bytes)
        if card is None:
            card = model_card(card_facts(family, tailoring, folder.resolve().name))
        texts = {"README.md": card, "tailoring.yaml": tailoring.to_yaml(), **extra_files}
        for name, text in texts.items():
            if name not in _OURS and (beside / name).exists():
                raise ExportError(
                    f"{name}: is a file of the checkpoint itself; give the extra file another name"
                )
            (beside / name).write_text(text, encoding="utf-8")
        family.fitted.save(tailoring, beside / FOLDER)


def write_weights(
    family: Family, tailoring: Tailoring, folder: Path, *, dtype: torch.dtype, shard_bytes: int
) -> None:
    """Write weights, configs and tokenizer into an empty folder; read them back and compare.

    The arguments are those of `export_checkpoint`.
    """
    wide = tailored_weights(family, tailoring, path=family.layout.layers, dtype=dtype)
    narrow = narrowing(family, tailoring)
    weights = wide if narrow is None else narrow.weights(wide, family.layout.layers)
    model = _assembled(family, tailoring, weights, narrow, dtype)
    around = family.multimodal_wrapper
    whole = model if around is None else around.around(model, dtype)
    whole.save_pretrained(folder, max_shard_size=shard_bytes)
    if family.generation_config is not None:  # as it is: some can be read, but not saved
        copy.deepcopy(family.generation_config).to_json_file(folder / "generation_config.json")
    family.tokenizer.save_pretrained(folder)
    if around is not None:
        around.write_files(folder)
    add_older_keys(folder, family.tokenizer)
    check_checkpoint(folder, family, tailoring, wide, weights)


def card_facts(family: Family, tailoring: Tailoring, name: str) -> CardFacts:
    """The facts for a card from a family and a tailoring; add scores with `dataclasses.replace`."""
    around = family.multimodal_wrapper
    config = family.config if around is None else around.config
    return CardFacts(
        name=name,
        tailoring=tailoring,
        n_layers=family.n_layers,
        paths=family.paths,
        licence=family.licence,
        parameters=_n_parameters(family, tailoring),
        width="" if (narrow := narrowing(family, tailoring)) is None else str(narrow),
        notes=family.notes,
        versions={program: version(program) for program in _PROGRAMS},
        uniform=len(set(family.kinds)) == 1,
        auto_class=auto_class(config).__name__,
    )


def tailored_weights(
    family: Family, tailoring: Tailoring, *, path: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Collect every tensor of the smaller model, on the CPU, by its name in the state dict.

    No two share their storage, as a file requires: a layer that is used twice is copied. A tied
    head is left out. `path` is the model's list of layers, such as ``model.layers``; `dtype` is
    that of all floating point tensors.
    """
    weights: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, tensor in _named(family, tailoring, path, dtype):
        wanted = tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        shared = wanted.untyped_storage().data_ptr() in used
        weights[name] = wanted.clone() if shared else wanted
        used.add(weights[name].untyped_storage().data_ptr())
    return weights


def _named(
    family: Family, tailoring: Tailoring, path: str, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for part, spec in tailoring.outer_parts.items():
        yield from outer_weights(family, part, spec, dtype).items()
    for index, spec in enumerate(tailoring.layers):
        for name, tensor in layer_weights(family, spec, dtype).items():
            yield f"{path}.{index}.{name}", tensor


def _n_parameters(family: Family, tailoring: Tailoring) -> tuple[int, int]:
    """Of the base and of the result, with what a multimodal model has around them."""
    wrapper = family.multimodal_wrapper
    before = family.parameters + (0 if wrapper is None else wrapper.parameters)
    layers = family.layer_parameters
    after = before - sum(layers) + sum(layers[spec.position] for spec in tailoring.layers)
    narrow = narrowing(family, tailoring)
    return before, after - (0 if narrow is None else narrow.n_parameters)


def _refuse_options(dtype: torch.dtype, shard_bytes: int, extra_files: Mapping[str, str]) -> None:
    if dtype not in SAVED_DTYPES.values():
        raise ExportError(f"{dtype}: a checkpoint is written in one of {', '.join(SAVED_DTYPES)}")
    if shard_bytes < 1:
        raise ExportError(f"a file of {shard_bytes} bytes holds no weights; give 1 or more")
    for name in extra_files:
        if name in _OURS or name in ("", ".", "..") or "\0" in name or Path(name).name != name:
            raise ExportError(f"{name!r}: is not a name that an extra file may have")


def _assembled(
    family: Family,
    tailoring: Tailoring,
    weights: Mapping[str, Tensor],
    narrow: Narrowing | None,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """The smaller model on the CPU; its parameters are the assembled tensors."""
    config = tailored_config(family.config, [spec.position for spec in tailoring.layers])
    if narrow is not None:
        config = narrow.config(config)
    if "quantization_config" in config.to_dict():
        del config.quantization_config  # the members were dequantised when they were read
    config.dtype = dtype
    model = skeleton_of(config, dtype)
    left_over = model.load_state_dict(weights, strict=False, assign=True).unexpected_keys
    model.tie_weights()
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if missing or left_over:
        raise ExportError(
            f"a stock model of type {config.model_type!r} with {len(tailoring.layers)} layers "
            f"{'has no weights for' if missing else 'has no place for'} "
            f"{[*missing, *left_over][0]}; this tailoring can't be written as a checkpoint"
        )
    return model
