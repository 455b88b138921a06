"""Open a folder of safetensors: checked first, then read by transformers.

No code from the folder is run and no pickle is opened.
"""

import contextlib
import math
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from gptailor.errors import FamilyError, listed
from gptailor.family.architecture import facts, n_layers_of, refuse_unsupported, text_config
from gptailor.family.empty_model import auto_class, skeleton_of
from gptailor.family.family import OpenedMember
from gptailor.family.layout import Layout
from gptailor.family.leads import elsewhere
from gptailor.family.library_calls import library_call, one_line
from gptailor.family.locate import licence_of
from gptailor.family.multimodal import language_model, multimodal_wrapper_of
from gptailor.family.weight_files import (
    MAX_LISTED,
    StoredTensor,
    read_json,
    refuse_bad_files,
    tensors_of,
    two_copies,
)

__all__ = [
    "OTHER_HEAD",
    "generation_config_of",
    "model_from_files",
    "open_checkpoint",
    "state_of",
    "tokenizer_of",
]

_MAX_SIZE = 2**24  # of a dimension in the config
_SIZES = (
    *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "vocab_size", "max_position_embeddings", "num_hidden_layers"),
    *("num_experts", "num_local_experts", "n_routed_experts"),
)
# field to the least and the most; transformers makes a name for each label
_LIMITS = {**dict.fromkeys(_SIZES, (1, _MAX_SIZE)), "num_labels": (0, 2**16)}
_FLOATS = frozenset(["F16", "BF16", "F32", "F64"])
_SMALL_FLOATS = ("F8", "F6", "F4")
# fields that choose code, and the values of them that mean code of transformers itself
_IMPLEMENTATIONS = re.compile(
    r"_?(attn|experts)_implementation(_internal)?|use_kernels|kernel_config"
)
_KNOWN_CODE = re.compile(
    r"eager|sdpa|(paged\|)?flash_attention_[234]|flex_attention|grouped_mm|batched_mm"
)
# classes of transformers and of other trainers whose head predicts no tokens
OTHER_HEAD = re.compile(
    r"For(Sequence|Token)Classification|ForQuestionAnswering|ForMultipleChoice|ForMaskedLM"
    r"|Reward|ForScor|Classifier$"
)
_GENERATION = "generation_config.json"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def open_checkpoint(folder: Path, *, dtype: torch.dtype, path: str) -> OpenedMember:
    """Open a folder with a config.json and safetensors; `path` is the one in the config."""
    config = _config_of(folder)
    stored = tensors_of(folder)
    _refuse_shortfall(folder, config, stored)
    _check_generation_config(folder)
    whole = model_from_files(auto_class(config), folder, dtype)
    model = language_model(whole)
    wrapper, config = multimodal_wrapper_of(whole, model, folder), text_config(config)
    layout = Layout.of(model)
    config.tie_word_embeddings = layout.tied  # a head that differs is never tied to the embedding
    notes = [*_left_out(path, whole, stored), *two_copies(folder)]
    if wrapper is not None:
        notes.append(
            f"{path} is a {wrapper.config.model_type} model: its language model is tailored, "
            f"the rest ({wrapper.parameters:,} parameters) stays as the base has it"
        )
    return OpenedMember(
        location=str(folder),
        path=path,
        config=config,
        state=state_of(model, layout, dtype),
        tied=layout.tied,
        tokenizer=tokenizer_of(folder),
        generation_config=model.generation_config,
        licence=licence_of(folder),
        notes=tuple(notes),
        multimodal_wrapper=wrapper,
    )


def _left_out(path: str, model: Any, stored: Mapping[str, StoredTensor]) -> list[str]:
    """A note on weights that transformers has no place for and skips, such as extra layers."""
    skipped = [*(model._keys_to_ignore_on_load_unexpected or ())]
    names = sorted(
        name
        for name in stored.keys() - model.state_dict().keys()
        if name.endswith(".weight") and any(re.search(pattern, name) for pattern in skipped)
    )
    if not names:
        return []
    return [
        f"{path}: {len(names)} tensors ({listed(names, 3)}) belong to no layer that transformers "
        "runs, such as those that predict further tokens, and are left out"
    ]


def model_from_files(
    model_class: Any, folder: Path, dtype: torch.dtype, gguf_file: str | None = None
) -> Any:  # transformers is untyped here
    """Let transformers read a folder of safetensors, or a GGUF file in it."""
    path = folder if gguf_file is None else folder / gguf_file
    with library_call(f"{path}: transformers can't read it"), _without_adapter(folder) as plain:
        model, info = model_class.from_pretrained(
            plain,
            gguf_file=gguf_file,
            dtype=dtype,
            use_safetensors=True if gguf_file is None else None,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, all at once
            local_files_only=True,
            attn_implementation="eager",  # only the weights are needed
        )
    mismatched = sorted(info["mismatched_keys"])
    problems = _misfits(path, info["missing_keys"], info["unexpected_keys"], mismatched)
    problems += [f"{path}: {one_line(ValueError(text))}" for text in info["error_msgs"][:1]]
    if problems:
        raise FamilyError(problems)
    return model


@contextlib.contextmanager
def _without_adapter(folder: Path) -> Iterator[Path]:
    """The folder, or links to its files but an adapter's: transformers would put that on top."""
    if not (folder / "adapter_config.json").is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as links:
        for file in folder.iterdir():
            if not file.name.startswith("adapter_"):
                Path(links, file.name).symlink_to(file.resolve())
        yield Path(links)


def state_of(model: PreTrainedModel, layout: Layout, dtype: torch.dtype) -> dict[str, Tensor]:
    """A model's weights by name, float ones in `dtype`; a tied head is left out."""
    state = {
        name: tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
        for name, tensor in model.state_dict().items()
        if not (layout.tied and name == layout.head)
    }
    return {name: tensor.contiguous() for name, tensor in state.items()}


def tokenizer_of(folder: Path) -> Any:  # transformers is untyped here
    """The folder's tokenizer, or None where there is none.

    Raises:
        FamilyError: There is one, and it can't be read.
    """
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        with library_call(f"{folder}: its tokenizer can't be read"):
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=False, local_files_only=True
            )
            if not isinstance(tokenizer.model_max_length, int | float):
                raise TypeError(f"model_max_length is {tokenizer.model_max_length!r}")
            return tokenizer
    except FamilyError as error:
        if re.search("trust_remote_code|custom code", str(error)):
            raise FamilyError(
                f"{folder}: its tokenizer can't be read: it needs code that comes with it, which "
                "is never run; save it as a tokenizer.json"
            ) from error
        raise


def _refuse_types(
    folder: Path, stored: Mapping[str, StoredTensor], needed: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse weights that are not plain floats: integers, or floats of less than 16 bits."""
    wrong = [
        f"{name} as {tensor.dtype}"
        for name, tensor in sorted(stored.items())
        if tensor.dtype.startswith(_SMALL_FLOATS)
        or (name in needed and tensor.dtype not in _FLOATS)
    ]
    if wrong:
        raise FamilyError(
            f"{folder}: {len(wrong)} tensors are not stored as floats of 16 bits or more "
            f"({listed(wrong)}); give the unquantised model"
        )


def _misfits(
    path: Path,
    missing: Collection[str],
    unknown: Collection[str],
    mismatched: Sequence[tuple[str, Sequence[int], Sequence[int]]],
) -> list[str]:
    """Tensors that files and config do not agree on; mismatched by name, found and needed shape."""
    one = next(iter(missing), "")
    for prefix in (name.removesuffix(one) for name in unknown if one and name.endswith(f".{one}")):
        if {prefix + name for name in missing} <= {*unknown}:
            return [
                f"{path}: the names of its tensors begin with {prefix!r}, so what was saved is a "
                "wrapper around the model; save the model inside it"
            ]
    lack, hold = ("lacks", "holds") if path.is_file() else ("lack", "hold")
    noun = "file" if path.is_file() else "files"
    return [
        *(
            f"{path}: the {noun} {words} {len(names)} tensors ({listed(sorted(names))})"
            for names, words in ((missing, lack), (unknown, f"{hold} unknown"))
            if names
        ),
        *(
            f"{path}: tensor {name} has shape {tuple(found)} but the config needs {tuple(needed)}"
            for name, found, needed in mismatched[:MAX_LISTED]
        ),
    ]


def _config_of(folder: Path) -> PreTrainedConfig:
    path = folder / "config.json"
    if not folder.is_dir():
        raise FamilyError(f"{folder} is not a folder of a model, nor a GGUF file")
    if not path.is_file():
        raise FamilyError(
            f"{folder} has no config.json; give the folder of a saved model{elsewhere(folder)}"
        )
    refuse_bad_files(folder)
    fields = read_json(path)
    _refuse_bad_fields(path, fields)
    with library_call(f"{path}: transformers can't read it"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    try:
        refuse_unsupported(config)
    except FamilyError as error:
        raise FamilyError([f"{path}: {sentence}" for sentence in error.problems]) from None
    return config


def _refuse_bad_fields(path: Path, fields: Mapping[str, Any]) -> None:
    model_type = fields.get("model_type")
    if not isinstance(model_type, str):
        raise FamilyError(f"{path}: model_type is {model_type!r}; it must name an architecture")
    known = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or model_type in facts().multimodal
    if not known and model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise FamilyError(
            f"{path}: models of type {model_type!r} are not supported: they read images and text, "
            "and their language model can't be tailored apart from the rest"
        )
    if not known:
        raise FamilyError(
            f"{path}: model_type is {model_type!r}, and transformers {transformers.__version__} "
            "has no such causal language model; code from a model's folder is never run"
        )
    _refuse_other_head(path, fields)
    _refuse_quantised(path, fields)
    _refuse_code(path, fields)
    inside = [one for k, one in fields.items() if k.endswith("_config") and isinstance(one, dict)]
    problems = [
        f"{path}: {name} is {part[name]!r}; it must be a whole number of {least} to {most}"
        for part in (fields, *inside)
        for name, (least, most) in _LIMITS.items()
        if isinstance(part.get(name), int | float)
        and not (type(part[name]) is int and least <= part[name] <= most)
    ]
    if problems:
        raise FamilyError(problems)


def _refuse_other_head(path: Path, fields: Mapping[str, Any]) -> None:
    """Refuse a reward model, a classifier, or another model that predicts no tokens."""
    named = fields.get("architectures")
    other = [one for one in named if OTHER_HEAD.search(str(one))] if isinstance(named, list) else []
    if other:
        raise FamilyError(
            f"{path}: it is a {other[0]}, which scores or labels texts and predicts no tokens; "
            "give a causal language model"
        )


def _refuse_quantised(path: Path, fields: Mapping[str, Any]) -> None:
    """Refuse quantised weights; where the weights are plain floats, say what is left over."""
    keys = ("quantization_config", "compression_config")
    key = next((k for k in keys if fields.get(k) is not None), None)
    if key is None:
        return
    quantised = fields[key]
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    types = {tensor.dtype for tensor in tensors_of(path.parent).values()}
    if types <= _FLOATS:
        raise FamilyError(
            f"{path}: {key} says that the layers are quantised ({method}), but the weights are "
            f"plain floats ({listed(sorted(types))}): if they were dequantised or merged, take "
            f"{key} out of the file"
        )
    raise FamilyError(
        f"{path}: its layers are quantised ({method}), and quantised layers can't be merged; "
        "give the unquantised model, or a GGUF file"
    )


def generation_config_of(folder: Path) -> GenerationConfig | None:
    """The generation config that a folder has, or None."""
    if not _check_generation_config(folder):
        return None
    with library_call(f"{folder / _GENERATION}: can't be used"):
        return GenerationConfig.from_pretrained(folder)


def _check_generation_config(folder: Path) -> bool:
    """Whether a folder has a generation config; transformers ignores a broken one."""
    file = folder / _GENERATION
    return file.is_file() and bool(read_json(file))


def _refuse_code(path: Path, fields: Mapping[str, Any]) -> None:
    """Refuse fields, however deep, that name code which transformers would fetch and run."""
    pending: list[Any] = [fields]
    while pending:
        for key, value in pending.pop().items():
            if isinstance(value, dict):
                pending.append(value)
            if not _IMPLEMENTATIONS.fullmatch(str(key)) or not value:
                continue
            if not isinstance(value, str) or not _KNOWN_CODE.fullmatch(value):
                raise FamilyError(
                    f"{path}: {key} is {value!r}, which names code to be fetched and run; none is "
                    "ever run, so take the field out"
                )


def _refuse_shortfall(
    folder: Path, config: PreTrainedConfig, stored: Mapping[str, StoredTensor]
) -> None:
    """Refuse a config that needs more than the files hold: transformers would draw the rest."""
    held = {name: tensor.shape for name, tensor in stored.items()}
    n_layers = n_layers_of(text_config(config))
    if n_layers > len(held):
        raise FamilyError(
            f"{folder / 'config.json'}: num_hidden_layers is {n_layers} but the files hold only "
            f"{len(held)} tensors"
        )
    with library_call(f"{folder / 'config.json'}: no model can be made of it"):
        model = skeleton_of(config, torch.float32)
    needed = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    _refuse_types(folder, stored, needed)
    # by count, for some architectures have other names on disk than in memory
    n_needed, n_held = (sum(map(math.prod, shapes.values())) for shapes in (needed, held))
    if n_needed <= n_held:
        return
    mismatched = [
        (name, held[name], shape)
        for name, shape in needed.items()
        if name in held and held[name] != shape
    ]
    raise FamilyError(
        _misfits(folder, needed.keys() - held.keys(), (), mismatched)
        or f"{folder}: the config needs {n_needed} parameters, the files hold {n_held}"
    )
