"""How lm-eval lets a model write, and how it judges the text: stop strings, filters, metrics.

lm-eval is imported inside functions.
"""

from collections.abc import Mapping
from typing import Any

from gptailor.errors import TaskError
from gptailor.tasks.task import plain_numbers

__all__ = ["judged", "limits_of"]

# what `generation_kwargs` may hold; the last three have no effect on greedy generation
_KNOWN = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "num_beams"}) | {
    *("top_p", "top_k", "min_p"),
}
_MOST_TOKENS = 2**15


def limits_of(arguments: Mapping[str, Any], end: str) -> tuple[tuple[str, ...], int]:
    """The stop strings and the most tokens of an answer, as lm-eval's backend reads them.

    `end` is the text of the end-of-sequence token, which is one more stop string.

    Raises:
        TaskError: The arguments ask for more than greedy generation.
    """
    from lm_eval.models.utils import normalize_gen_kwargs

    given = {key: value for key, value in arguments.items() if value is not None}
    found: dict[str, Any] = dict(normalize_gen_kwargs(given))
    unknown = sorted(set(found) - _KNOWN)
    if found["do_sample"] or found.get("num_beams", 1) != 1 or unknown:
        asked = ", ".join(unknown) or ("do_sample" if found["do_sample"] else "num_beams")
        raise TaskError(
            f"generation_kwargs: {asked}: answers are generated greedily; leave it out, and set "
            "do_sample to false"
        )
    stops = [stop for stop in (*found.get("until", ()), end) if stop]
    if not all(isinstance(stop, str) for stop in stops):
        raise TaskError(
            f"generation_kwargs: until: {stops!r} are not all texts; put them in quotes"
        )
    if not 0 < found["max_gen_toks"] <= _MOST_TOKENS:
        raise TaskError(
            f"generation_kwargs: max_gen_toks: is {found['max_gen_toks']}; must be from 1 to "
            f"{_MOST_TOKENS}"
        )
    return tuple(dict.fromkeys(stops)), found["max_gen_toks"]


def judged(task: Any, request: Any, doc: Mapping[str, Any], text: str) -> dict[str, float]:
    """The metrics of a written text, as ``metric,filter``; also as ``metric`` if one filter.

    Args:
        task: lm-eval's task object.
        request: lm-eval's request for the document.
        doc: The document.
        text: What the model wrote, without its stop string.
    """
    request.resps, request.filtered_resps = [text], {}
    for ensemble in task._filters:
        ensemble.apply([request])
    numbers: dict[str, float] = {}
    for name, answer in request.filtered_resps.items():
        found = plain_numbers(task.process_results(doc, [answer]))
        numbers |= {f"{metric},{name}": number for metric, number in found.items()}
        if len(request.filtered_resps) == 1:
            numbers |= found
    return numbers
