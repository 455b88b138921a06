"""Whose tokenizer, chat template and generation config a family uses, and where members differ."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gptailor.errors import FamilyError, listed
from gptailor.family.empty_model import skeleton_of
from gptailor.family.family import OpenedMember
from gptailor.family.layout import Layout

__all__ = ["rowless_notes", "text_notes", "with_tokenizer_of"]

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_PASSING = ("_from_model_config", "transformers_version")  # what changes no generated token
_PROBE = "It's 12345 HTMLTags,  x+=1;\n\n\tdef f(a_b):  # caf\u00e9 \u4f60\u597d"


def with_tokenizer_of(member: OpenedMember, name: str, base: OpenedMember) -> OpenedMember:
    """The base with a variant's tokenizer, chat template, generation config and special ids.

    Raises:
        FamilyError: The variant has no tokenizer, or its tokens are not the base's rows.
    """
    tokenizer = _tokenizer(member)
    if tokenizer is None:
        raise FamilyError(
            f"family.tokenizer: {name} has no tokenizer in {member.location}; save one there, or "
            "name another member"
        )
    layout = Layout.of(skeleton_of(base.config, next(iter(base.state.values())).dtype))
    n_rows = base.state[layout.embedding].shape[0]
    ours: Mapping[str, int] = {} if base.tokenizer is None else base.tokenizer.get_vocab()
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda pair: pair[1])
    wrong = [repr(t) for t, i in tokens if i >= n_rows or ours.get(t, i) != i]
    if wrong:
        raise FamilyError(
            f"family.tokenizer: {len(wrong)} tokens of {name} ({listed(wrong, 3)}) have another id "
            "than in the base, or no row in the base's embedding, which the study uses; name "
            "another member"
        )
    config, theirs = copy.deepcopy(base.config), member.config.to_dict()
    for key in _TOKEN_IDS:
        if key in config.to_dict():
            setattr(config, key, theirs.get(key))
    used = replace(
        base,
        config=config,
        tokenizer=tokenizer,
        generation_config=member.generation_config,
        named=f"the variant {name!r}",
    )
    return replace(used, notes=(*base.notes, *text_notes("the base", base, used)))


def rowless_notes(used: OpenedMember, layout: Layout) -> list[str]:
    """A note on tokens of the tokenizer in use that have no row in the embedding."""
    if used.tokenizer is None:
        return []
    n_rows = used.state[layout.embedding].shape[0]
    pairs = sorted((number, token) for token, number in used.tokenizer.get_vocab().items())
    beyond = [repr(token) for number, token in pairs if number >= n_rows]
    if not beyond:
        return []
    return [
        f"the tokenizer of {used.named} has {len(beyond)} tokens ({listed(beyond, 3)}) beyond the "
        f"{n_rows:,} rows of the embedding; a text that has one can't be scored"
    ]


def text_notes(who: str, member: OpenedMember, used: OpenedMember) -> list[str]:
    """A sentence on what of a member differs from what is `used`; none where nothing does."""
    differing = _differing(member, used)
    if not differing:
        return []
    return [
        f"{who} differs from {used.named} in its {listed(differing)}; what {used.named} has is "
        "used and exported, and family.tokenizer names another member"
    ]


def _differing(member: OpenedMember, used: OpenedMember) -> list[str]:
    theirs, ours = _tokenizer(member), used.tokenizer
    differing = []
    if theirs is not None and ours is not None and theirs is not ours:
        if _ids(theirs) != _ids(ours):
            differing.append("tokenizer")
        if theirs.chat_template != ours.chat_template:
            differing.append("chat template")
    settings = [_settings(one.generation_config) for one in (member, used)]
    keys = sorted({k for one in settings for k in one if settings[0].get(k) != settings[1].get(k)})
    if keys:
        differing.append(f"generation config ({', '.join(keys)})")
    return differing


def _tokenizer(member: OpenedMember) -> Any:  # transformers is untyped here
    return member.tokenizer if member.adapter_tokenizer is None else member.adapter_tokenizer


def _ids(tokenizer: Any) -> tuple[object, ...]:
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    return tokenizer.get_vocab(), tokenizer(_PROBE)["input_ids"], special


def _settings(generation_config: Any) -> dict[str, Any]:
    if generation_config is None:
        return {}
    plain = generation_config.to_diff_dict()
    return {key: value for key, value in plain.items() if key not in _PASSING}
