"""Add what readers of transformers 4 look for to a checkpoint that transformers 5 has saved.

transformers 4, and servers that follow it, read the rotary embedding from ``rope_theta`` and
``rope_scaling``, where transformers 5 writes ``rope_parameters`` alone: such a reader takes 10,000
and no scaling, without a message. Nor do they have the class ``TokenizersBackend``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from gptailor.errors import FamilyError
from gptailor.family.checkpoint_reader import tokenizer_of
from gptailor.family.weight_files import read_json

__all__ = ["add_older_keys"]

_PLAIN = "PreTrainedTokenizerFast"
_BACKENDS = ("TokenizersBackend", _PLAIN)
_TOKENIZER_CONFIG = "tokenizer_config.json"
_PROBE = "It's 12345 HTMLTags,  x+=1;\n\tdef f(a_b):  # caf\u00e9"
_OF_THIS_MACHINE = ("is_local", "local_files_only")
# the kinds of layer whose rotary embedding the older keys describe, the first that there is
_KINDS = ("full_attention", "sliding_attention")
# the older names of some types: theta, the rotated share of a head
_NAMES = {"gpt_neox": ("rotary_emb_base", "rotary_pct")}
_PLAIN_NAMES = ("rope_theta", "partial_rotary_factor")
# the only fields of a scaling that some model types accept
_TYPE_AND_FACTOR = ("type", "factor")
_ONLY = {
    **{
        (name, kind): _TYPE_AND_FACTOR
        for name in ("olmo", "olmo2")
        for kind in ("linear", "dynamic")
    },
    ("phi3", "longrope"): ("type", "short_factor", "long_factor"),
}


def add_older_keys(folder: Path, tokenizer: Any) -> None:
    """Add older keys to config.json, and a known class to tokenizer_config.json.

    `tokenizer` is the one that was saved; whether it adds a beginning or an end by itself is
    written, too: classes of transformers 4 do not read that from tokenizer.json.
    """
    _change(folder / "config.json", _with_older_keys)
    if (folder / "tokenizer.json").is_file():  # else a class of its own, which both have
        file, said = folder / _TOKENIZER_CONFIG, _class_said(tokenizer)
        _change(file, lambda fields: _known_class(fields, tokenizer, said))
        if said != _PLAIN and not _is_read_as(tokenizer, folder):
            _change(file, lambda fields: fields | {"tokenizer_class": _PLAIN})


def _change(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    fields = change(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(fields, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _with_older_keys(fields: dict[str, Any]) -> dict[str, Any]:
    made = {
        name: _with_older_keys(value)
        if name.endswith("_config") and isinstance(value, dict)
        else value
        for name, value in fields.items()
    }
    if isinstance(made.get("dtype"), str):
        made["torch_dtype"] = made["dtype"]
    rope = made.get("rope_parameters")
    return made | _older_keys(made, rope) if isinstance(rope, dict) and rope else made


def _older_keys(fields: dict[str, Any], rope: dict[str, Any]) -> dict[str, Any]:
    """The older keys of a config; the scaling is always written, as some types have a default."""
    model_type = str(fields.get("model_type"))
    by_kind = {kind: rope[kind] for kind in _KINDS if isinstance(rope.get(kind), dict)}
    whole = dict(next(iter(by_kind.values()), rope))
    theta, share = _NAMES.get(model_type, _PLAIN_NAMES)
    older = {theta: whole.pop("rope_theta", None), share: whole.pop("partial_rotary_factor", None)}
    older = {name: value for name, value in older.items() if value is not None}
    if model_type.startswith("gemma3") and "sliding_attention" in by_kind:
        older["rope_local_base_freq"] = by_kind["sliding_attention"]["rope_theta"]
    if model_type == "qwen3_moe" and "num_local_experts" in fields:
        older["num_experts"] = fields["num_local_experts"]
    kind = whole.get("rope_type", "default")
    if only := _ONLY.get((model_type, kind)):
        whole = {name: (whole | {"type": kind})[name] for name in only}
    return {**older, "rope_scaling": None if kind == "default" else whole}


def _class_said(tokenizer: Any) -> str:
    """The class that the member's own file names, if transformers has one of that name."""
    file = Path(tokenizer.name_or_path, _TOKENIZER_CONFIG)
    said = (
        read_json(file).get("tokenizer_class") if tokenizer.name_or_path and file.is_file() else ""
    )
    known = {name for name in TOKENIZER_MAPPING_NAMES.values() if name not in (None, *_BACKENDS)}
    return said if isinstance(said, str) and said.removesuffix("Fast") in known else _PLAIN


def _is_read_as(tokenizer: Any, folder: Path) -> bool:
    """Whether the folder's tokenizer, by the class that is written there, gives the same tokens."""
    try:
        reread = tokenizer_of(folder)
    except FamilyError:
        return False
    return bool(reread(_PROBE)["input_ids"] == tokenizer(_PROBE)["input_ids"])


def _known_class(fields: dict[str, Any], tokenizer: Any, said: str) -> dict[str, Any]:
    fields = {name: value for name, value in fields.items() if name not in _OF_THIS_MACHINE}
    if fields.get("tokenizer_class") in _BACKENDS:
        fields["tokenizer_class"] = said
    # transformers 4 would add token_type_ids, which the models' generate refuses
    fields["model_input_names"] = list(tokenizer.model_input_names)
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    fields["add_bos_token"] = whole[:1] != bare[:1] and whole[:1] == [tokenizer.bos_token_id]
    fields["add_eos_token"] = whole[-1:] != bare[-1:] and whole[-1:] == [tokenizer.eos_token_id]
    return fields
