"""How the questions and prompts of a run were put to its models: plain, or as a chat."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gptailor.core.specs import GENERATION
from gptailor.record.entries import Header
from gptailor.report.words import listed, shortened

__all__ = ["ChatUse", "chat_use"]

_TEXTS = "sample texts"
_REFUSED = "the chat template takes no system message; it is left out"  # ends a task's note


class ChatUse(NamedTuple):
    """How questions were put to the models; by default as plain text."""

    about: str = ""  # a sentence without its full stop; "" where all was plain text
    template: str | None = None  # that of all tasks: its name, "" for the default one, or None
    system: str | None = None  # the system message with it


def chat_use(header: Header) -> ChatUse:
    """How the questions of a run were put, and the prompts of its sample texts."""
    chat = header.config.get("chat") or {}
    ways = {_TEXTS: _way({}, chat, header)}
    for goal, task in zip(header.goals, header.config.get("tasks") or (), strict=False):
        own = {} if goal.task == GENERATION else task
        ways[f"questions of {goal.task}"] = _way(own, chat, header)
    named: dict[ChatUse, list[str]] = {}
    for name, way in ways.items():
        named.setdefault(way, []).append(name)
    if len(named) == 1:
        (way,) = named
        return way._replace(about=f"All questions and texts {way.about}") if way.about else way
    text = "; ".join(
        f"{listed(names)} {way.about or 'were plain text'}" for way, names in named.items()
    )
    common = {way for name, way in ways.items() if name != _TEXTS}
    return (common.pop() if len(common) == 1 else ChatUse())._replace(
        about=text[0].upper() + text[1:]
    )


def _way(task: Mapping[str, Any], chat: Mapping[str, Any], header: Header) -> ChatUse:
    """How one task is put, by its own keys, else by those of the section ``chat``."""
    wanted, system = (
        chat.get(key) if task.get(key) is None else task[key]
        for key in ("chat_template", "system_instruction")
    )
    said = shortened(" ".join(str(system).split()), 300).rstrip(".")
    if wanted in (None, False, ""):
        if not system:
            return ChatUse()
        return ChatUse(f"came after the instruction “{said}”")
    notes = [note for facts in header.tasks.values() for note in facts.notes]
    refused = any(note.endswith(_REFUSED) for note in notes)
    only = f"has one chat template, which is not called {wanted!r}; it is used"
    name = "" if wanted is True or any(note.endswith(only) for note in notes) else str(wanted)
    about = f"went through the tokenizer's chat template{f' {name}' if name else ''}"
    if not system or refused:
        return ChatUse(about, name)
    about += f", with the system instruction “{said}”"
    return ChatUse(about, name, str(system))
