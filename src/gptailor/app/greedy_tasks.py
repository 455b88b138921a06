"""The tasks of greedy text: the objective ``generation``, and what a guard looks at.

Both are made of a whole member's own texts, which are written once: a run's record has them. No
opener is in both. Where the config's section ``chat`` names a template, openers are a user's
messages; sums and brackets are always plain text, which a model completes.
"""

from collections.abc import Callable, Mapping, Sequence

from gptailor.config import Config
from gptailor.core.specs import GENERATION, TaskSpec
from gptailor.core.tailoring import BASE
from gptailor.engine import Engine
from gptailor.engine.own_texts import own_texts
from gptailor.errors import ConfigError
from gptailor.family import Family
from gptailor.family.architecture import max_positions
from gptailor.record.run_record import RunRecord
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.greedy_text import (
    NEW_TOKENS,
    OwnText,
    continued_task,
    own_text_task,
    probe_task,
)
from gptailor.tasks.lm_eval.chat import chat_of
from gptailor.tasks.openers import GUARD_OPENERS, OPENERS
from gptailor.tasks.splits import TaskSplits
from gptailor.tasks.task import Task

__all__ = [
    "guard_tasks",
    "new_tokens",
    "prompt_tokens",
    "recorded_texts",
    "texts_member",
    "with_generation",
    "written_texts",
]

_MAX_LENGTH = 2048  # tokens, unless the model was made for fewer: more than any opener and answer
_ENDS = (16, 24, 32)  # of the search, the selection and the test split, in texts


def texts_member(config: Config) -> str:
    """The member whose own texts candidates are compared on: the objective's, or the base."""
    return next((t.member for t in config.tasks if t.name == GENERATION and t.member), BASE)


def written_texts(engine: Engine, config: Config, *, made_up: bool = False) -> tuple[OwnText, ...]:
    """Let the member write what the config needs; nothing if it has neither task nor guard.

    Texts that are `made_up` are as long as may be, for a forecast.

    Raises:
        TailoringError: The member can't write.
    """
    has_task = any(task.name == GENERATION for task in config.tasks)
    openers = [*(OPENERS if has_task else ()), *(GUARD_OPENERS if config.guard else ())]
    prompts, n_new = prompt_tokens(config, engine.family, openers), new_tokens(engine.family)
    if made_up:
        return tuple(OwnText(each, each[:1] * n_new, ()) for each in prompts)
    return own_texts(engine, texts_member(config), prompts, n_new) if prompts else ()


def recorded_texts(record: RunRecord | None) -> tuple[OwnText, ...]:
    """The texts in a record; none where there is no record, or none in it."""
    entry = None if record is None else record.own_texts
    return () if entry is None else tuple(OwnText(*text) for text in entry.texts)


def with_generation(
    config: Config, tasks: Mapping[str, TaskSplits], texts: Sequence[OwnText]
) -> dict[str, TaskSplits]:
    """Put the task ``generation`` in its place among the others, if the config has it.

    Raises:
        ConfigError: Another task has its name.
    """
    if GENERATION in tasks:
        raise ConfigError("tasks: 'generation' is the task of greedy text; give yours another name")
    left, ordered = iter(tasks.items()), dict[str, TaskSplits]()
    for spec in config.tasks:
        if spec.name == GENERATION:
            first, second, third = _ENDS
            parts = (texts[:first], texts[first:second], texts[second:third])
            search, selection, test = map(own_text_task, parts)
            ordered[GENERATION] = TaskSplits(search, selection, test, {}, spec)
        else:
            name, splits = next(left)
            ordered[name] = splits
    return ordered


def guard_tasks(engine: Engine, texts: Sequence[OwnText]) -> list[Task]:
    """What a guard looks at: a member's own texts, what is written after openers, a probe."""
    texts = texts[-len(GUARD_OPENERS) :]
    prompts = [text.prompt for text in texts]
    continued = continued_task(prompts, new_tokens(engine.family))
    return [own_text_task(texts), continued, probe_task(_encode(engine.family))]


def new_tokens(family: Family) -> int:
    """Most tokens written after a prompt: 64, or half of what the model was made for."""
    return min(NEW_TOKENS, _length(family) // 2)


def _length(family: Family) -> int:
    return min(_MAX_LENGTH, max_positions(family.config) or _MAX_LENGTH)


def prompt_tokens(config: Config, family: Family, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Texts in token ids, put to a model as the section ``chat`` says.

    Raises:
        TaskError: The tokenizer has no such template.
    """
    spec = TaskSpec(name="greedy text", metric="acc").with_defaults(config.chat)
    chat, encode = chat_of(spec, family.tokenizer), _encode(family)
    system = chat.system_instruction
    if chat.template is None:  # as lm-eval does it
        return [encode(f"{system or ''}{text}") for text in texts]
    before = [{"role": "system", "content": system}] if system else []
    return [encode(chat.rendered([*before, {"role": "user", "content": each}])) for each in texts]


def _encode(family: Family) -> Callable[[str], tuple[int, ...]]:
    encoder = Encoder.of(family.tokenizer, _length(family), family.config.vocab_size)
    return lambda text: encoder.prompt(text, new_tokens(family))
