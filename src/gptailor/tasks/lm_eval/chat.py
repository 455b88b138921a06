"""Put questions through a tokenizer's chat template, as lm-eval does it.

A named template is applied; lm-eval looks a name up and then renders with the default template.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from gptailor.core.specs import TaskSpec
from gptailor.errors import TaskError

__all__ = ["PLAIN", "Chat", "chat_of"]

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Chat:
    """How prompts are rendered; by default as plain text."""

    tokenizer: Any = None
    template: str | None = None  # Jinja; None for plain text
    system_instruction: str | None = None
    multiturn: bool = False  # whether worked examples are turns of their own
    notes: tuple[str, ...] = ()  # for the user

    @property
    def of_contexts(self) -> dict[str, Any]:
        """Arguments of lm-eval's `fewshot_context`."""
        return {
            "system_instruction": self.system_instruction,
            "fewshot_as_multiturn": self.multiturn,
            **self.of_requests,
        }

    @property
    def of_requests(self) -> dict[str, Any]:
        """Arguments of lm-eval's `construct_requests`."""
        on = self.template is not None
        return {"apply_chat_template": on, "chat_template": self.rendered if on else None}

    def rendered(self, messages: Messages, add_generation_prompt: bool = True) -> str:
        """Render messages; where the template refuses a system message, without it.

        Raises:
            TemplateError: The template refuses the messages.
        """
        render = functools.partial(
            self.tokenizer.apply_chat_template,
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        try:
            return str(render(messages))
        except TemplateError:
            return str(render([one for one in messages if one["role"] != "system"]))


PLAIN = Chat()


def chat_of(spec: TaskSpec, tokenizer: Any) -> Chat:
    """How a task's prompts are rendered for a tokenizer.

    Raises:
        TaskError: The tokenizer has no such template, or worked examples are to be turns of a chat
            that there is not.
    """
    template, notes = None, list[str]()
    if spec.chat_template not in (None, False, ""):
        template, notes = _selected(spec.name, spec.chat_template, tokenizer.chat_template)
    elif spec.fewshot_as_multiturn:
        raise TaskError(
            f"task {spec.name!r}: fewshot_as_multiturn is true, and turns need a chat template; "
            "set chat_template, or leave it out"
        )
    multiturn = spec.fewshot_as_multiturn
    if multiturn is None:
        multiturn = template is not None
    chat = Chat(tokenizer, template, spec.system_instruction, multiturn, tuple(notes))
    if template is None or not spec.system_instruction or _takes_system_messages(chat):
        return chat
    refused = f"task {spec.name!r}: the chat template takes no system message; it is left out"
    return Chat(tokenizer, template, spec.system_instruction, multiturn, (*notes, refused))


def _selected(
    task: str, wanted: bool | str | None, templates: str | Mapping[str, str] | None
) -> tuple[str, list[str]]:
    """The template that is meant, and notes."""
    if not templates:
        raise TaskError(
            f"task {task!r}: chat_template is {wanted!r}, but the tokenizer has no chat template; "
            "save one with it, name a member that has one (family.tokenizer), or leave it out"
        )
    if isinstance(templates, str):
        if wanted is True:
            return templates, []
        note = f"task {task!r}: the tokenizer has one chat template, which is not called {wanted!r}"
        return templates, [f"{note}; it is used"]
    name = "default" if wanted is True else str(wanted)
    if name not in templates:
        known = ", ".join(sorted(templates))
        reason = "there is none called 'default'" if wanted is True else f"there is no {name!r}"
        raise TaskError(
            f"task {task!r}: chat_template: {reason} among the tokenizer's templates; name one of "
            f"{known}"
        )
    return templates[name], []


def _takes_system_messages(chat: Chat) -> bool:
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]
    with_system = chat.rendered(messages)
    return with_system != chat.rendered(messages[1:])
