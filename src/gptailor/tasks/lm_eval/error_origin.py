"""Which key of a task file, and which example, a failure inside lm-eval was about.

lm-eval renders templates and tries the first example deep inside itself, and what comes out says
neither key nor example; the frames of the traceback do. Never imports lm-eval.
"""

import traceback
from types import FrameType
from typing import Any

from jinja2.exceptions import SecurityError

from gptailor.errors import is_out_of_memory
from gptailor.tasks.lm_eval.task_file import TEMPLATES

__all__ = ["asked_last", "describe_error", "one_line", "tried_first"]

_LM_EVAL = "lm_eval.api.task"


def one_line(error: BaseException) -> str:
    """One line of what a library said."""
    first = next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), "")
    if is_out_of_memory(error):
        return "there is too little memory for what it asks; give the process more, or ask for less"
    if isinstance(error, SecurityError):
        return f"a template may not do this: {first}"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def describe_error(error: BaseException) -> str:
    """What a library said, and before it the key whose template it was about, if one is known."""
    key = None
    description = None
    for frame in _frames(error):
        name = frame.f_code.co_name
        if name == "fewshot_context":
            description = frame.f_locals["self"].config.description
        if name in TEMPLATES:
            key = name
        elif name == "doc_to_prefix":
            key = "gen_prefix"
        elif name == "resolve_field":
            key = "description" if frame.f_locals.get("field") == description else "gen_prefix"
    if key == "doc_to_choice" and isinstance(error, SyntaxError | ValueError):
        return f"{key}: gives no list of choices such as ['a', 'b'] ({one_line(error)})"
    return one_line(error) if key is None else f"{key}: {one_line(error)}"


def tried_first(error: BaseException) -> tuple[Any, dict[str, Any]] | None:
    """The task that lm-eval was trying the first example of, and what it knew of that example.

    Returns:
        The task object, and those of `choices` and `target` that it had; None where it failed
        before it had an example.
    """
    for frame in _frames(error):
        known = frame.f_locals
        if frame.f_code.co_name == "__init__" and "test_doc" in known:
            names = {"test_choice": "choices", "test_target": "target"}
            told = {ours: known[theirs] for theirs, ours in names.items() if theirs in known}
            return known["self"], told
    return None


def asked_last(error: BaseException) -> int | None:
    """Which of the documents it was to ask lm-eval was making requests of, from 0, if of any."""
    for frame in _frames(error):
        if frame.f_code.co_name == "build_all_requests" and "doc_id" in frame.f_locals:
            return int(frame.f_locals["doc_id"])
    return None


def _frames(error: BaseException) -> list[FrameType]:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return [frame for frame in frames if frame.f_globals.get("__name__") == _LM_EVAL]
