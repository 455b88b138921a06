"""From lm-eval's task objects to examples: splits, few-shot examples, requests, gold answers.

Every error of a user's data names the task and the example. Does not import lm-eval.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from gptailor.core.metrics import METRICS
from gptailor.errors import TaskError, is_out_of_memory
from gptailor.tasks.encoding import Encoder
from gptailor.tasks.generation import GeneratedExample
from gptailor.tasks.lm_eval.chat import PLAIN, Chat
from gptailor.tasks.lm_eval.json_data import json_files, place_of_row
from gptailor.tasks.lm_eval.written_text import judged, limits_of
from gptailor.tasks.multiple_choice import ChoiceExample, ProcessResults, share_contexts
from gptailor.tasks.splits import Document
from gptailor.tasks.task import Example, Passage, Prompt, TextSize, made_up_outcomes
from gptailor.tasks.text import ContinuationExample, RollingExample

__all__ = [
    "BUILD_ERRORS",
    "FEWSHOT_SEED",
    "LmEvalTask",
    "build_examples",
    "common_metrics",
    "document_of",
    "example_label",
    "list_documents",
    "one_line",
    "why_not_made",
    "why_refused",
]

FEWSHOT_SEED = 1234  # lm-eval's own default
_MAX_CHOICES = 1000  # the most in use are some hundred classes of an intent
_MAX_SHOWN = 100  # characters of a value in a message

# what a task file can raise through lm-eval: templates, literals, missing keys, wrong types
BUILD_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError),
    *(OSError, RuntimeError, SyntaxError, TemplateError, TypeError, ValueError, re.error),
)


class _Config(Protocol):
    task: str
    dataset_path: str | None
    dataset_kwargs: Mapping[str, Any] | None
    training_split: str | None
    validation_split: str | None
    test_split: str | None
    num_fewshot: int | None
    gen_prefix: str | None
    target_delimiter: str
    doc_to_target: object
    doc_to_choice: object
    process_docs: Callable[..., Any] | None
    process_results: Callable[..., Any] | str | None


class _FewshotConfig(Protocol):
    split: str | None
    samples: object


class _Request(Protocol):
    args: tuple[Any, ...]  # a context and a continuation or arguments, or a whole text
    idx: int


class LmEvalTask(Protocol):
    """What is used of lm-eval's task objects, which have no types."""

    OUTPUT_TYPE: str
    config: _Config
    fewshot_cfg: _FewshotConfig
    sampler: Any  # draws few-shot examples
    dataset: Mapping[str, Any]
    features: list[str]
    eval_docs: Any  # a `datasets.Dataset` or a list of documents
    multiple_input: int  # not 0: the choices are contexts, all with the same continuation
    doc_to_text: Callable[..., Any]
    doc_to_target: Callable[..., Any]
    doc_to_choice: Callable[..., Any]
    doc_to_prefix: Callable[..., str | None]
    fewshot_context: Callable[..., Any]
    construct_requests: Callable[..., Any]  # one `_Request`, or a list
    process_results: Callable[..., Mapping[str, Any]]
    set_config: Callable[..., None]
    set_fewshot_seed: Callable[..., None]
    count_bytes: Callable[[str], int]
    count_words: Callable[[str], int]


def one_line(error: BaseException) -> str:
    """What a library says of an error, in one line."""
    first = next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), "")
    if is_out_of_memory(error):
        return "there is too little memory for what it asks; give the process more, or ask for less"
    if isinstance(error, TaskError):
        return first
    if isinstance(error, SecurityError):
        return f"a template may not do this: {first}"
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def why_not_made(label: str, error: BaseException) -> str:
    """A sentence about a task that lm-eval can't make."""
    advice = "" if is_out_of_memory(error) else "; check its keys"
    return f"{label}: lm-eval can't build it ({one_line(error)}){advice}"


def why_refused(task: LmEvalTask, doc: Mapping[str, Any]) -> str | None:
    """What is wrong with a document, in a sentence; None where nothing is found."""
    try:
        context, choices, target = document_of("", task, 0, doc).raw
        if choices is not None:
            _refuse_unanswerable(choices, context if task.multiple_input else target)
    except (TaskError, *BUILD_ERRORS) as error:
        return one_line(error)
    return None


def example_label(task: LmEvalTask, index: int) -> str:
    """Name an example by its number, and by file and line where they are the user's own."""
    where = None
    if task.config.process_docs is None:  # else documents are not the file's rows
        split = task.config.test_split or task.config.validation_split
        files = json_files(task.config.dataset_path, task.config.dataset_kwargs)
        where = place_of_row(files, str(split), index)
    return f"example {index + 1}" + ("" if where is None else f" ({where})")


@contextlib.contextmanager
def _about(label: str, task: LmEvalTask, index: int) -> Iterator[None]:
    """Name the example in an error."""
    try:
        yield
    except (TaskError, *BUILD_ERRORS) as error:
        raise TaskError(f"{label}, {example_label(task, index)}: {one_line(error)}") from None


def list_documents(name: str, task: LmEvalTask, label: str) -> list[Document]:
    """Every document of a subtask's chosen split, with all that a model could be shown of it."""
    found = []
    for index, doc in enumerate(task.eval_docs):
        with _about(label, task, index):
            found.append(document_of(name, task, index, doc))
    if not found:
        raise TaskError(f"{label}: its split {task.config.test_split!r} has no examples")
    return found


def build_examples(
    label: str,
    task: LmEvalTask,
    wanted: Sequence[Document],
    encoder: Encoder,
    chat: Chat = PLAIN,
) -> dict[int, Example]:
    """Let lm-eval build the requests of documents, and tokenise them: document index -> example."""
    make = _MAKERS[task.OUTPUT_TYPE]
    task.set_fewshot_seed(FEWSHOT_SEED)
    docs = task.eval_docs
    made: dict[int, Example] = {}
    for document in sorted(wanted, key=lambda document: document.index):
        with _about(label, task, document.index):
            doc = docs[document.index]
            requests = _requests(task, doc, document.index, chat)
            about = functools.partial(_about, label, task, document.index)
            asked = _Asked(task, document.raw, doc, requests, chat.template is not None, about)
            made[document.index] = make(asked, encoder)
    return made


def _requests(task: LmEvalTask, doc: Mapping[str, Any], index: int, chat: Chat) -> list[_Request]:
    """The requests of one document, as lm-eval's `build_all_requests` makes them."""
    n_shots = task.config.num_fewshot or 0
    context = task.fewshot_context(
        doc, num_fewshot=n_shots, gen_prefix=task.doc_to_prefix(doc), **chat.of_contexts
    )
    name = (task.config.task, index, 1)
    made = task.construct_requests(doc=doc, ctx=context, metadata=name, **chat.of_requests)
    return sorted(made if isinstance(made, list) else [made], key=lambda request: request.idx)


def common_metrics(examples: Sequence[Example]) -> tuple[str, ...]:
    """The built-in metrics of every one of the examples, in the order of `METRICS`.

    Behind each are those of filtered text, ``metric,filter``.
    """
    found = [list(one.score(one.in_order(made_up_outcomes(one)))) for one in examples]
    common = set(found[0]).intersection(*found[1:])
    return tuple(
        name
        for metric in METRICS.builtin
        for name in dict.fromkeys((metric, *found[0]))
        if name in common and name in METRICS and name.partition(",")[0] == metric
    )


def document_of(name: str, task: LmEvalTask, index: int, doc: Mapping[str, Any]) -> Document:
    """A document of a subtask, with all that a model could be shown of it.

    Raises:
        TaskError: It lacks something; so may any of `BUILD_ERRORS` say.
    """
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        _refuse_none("text", target)
        return Document(name, index, (str(target),), (None, None, target))
    context = task.doc_to_text(doc)
    _refuse_none("question", context)
    if task.OUTPUT_TYPE in ("loglikelihood", "generate_until"):
        if task.OUTPUT_TYPE == "loglikelihood" or not callable(task.config.process_results):
            _refuse_none("answer", target)
        return Document(name, index, (str(context), str(target)), (context, None, target))
    given = task.doc_to_choice(doc)
    if not isinstance(given, list | tuple):
        raise TaskError(f"doc_to_choice: is {str(given)[:60]!r}, which is no list of choices")
    _refuse_unanswerable(given, None)
    choices = [str(choice) for choice in given]
    shown = (*choices, str(target)) if task.multiple_input else (str(context), *choices)
    return Document(name, index, shown, (context, choices, target))


def _refuse_none(noun: str, text: object) -> None:
    """Refuse what a template makes of a key that an example lacks."""
    if text is None or text == "None":
        raise TaskError(f"its {noun} is None; is a key missing, or null?")


@dataclass(frozen=True, slots=True)
class _Asked:
    """One document of a task, and what lm-eval asks of it."""

    task: LmEvalTask
    raw: tuple[Any, Any, Any]  # of `Document`
    doc: Mapping[str, Any]
    requests: Sequence[_Request]
    in_chat: bool  # whether a chat template was applied
    about: Callable[[], contextlib.AbstractContextManager[None]]  # names the example in an error

    @property
    def own(self) -> ProcessResults | None:
        """The task's `process_results` override, or None."""
        common = type(self.task).process_results.__qualname__.startswith("ConfigurableTask.")
        if common and not callable(self.task.config.process_results):
            return None
        return functools.partial(self.task.process_results, self.doc)


def _choices(asked: _Asked, encoder: Encoder) -> ChoiceExample:
    context, choices, target = asked.raw
    raw_gold = context if asked.task.multiple_input else target
    _refuse_unanswerable(choices, raw_gold)
    # behind the choices, lm-eval may ask for them without context (for acc_mutual_info)
    n_requests = len(choices) if asked.own is None else len(asked.requests)
    pairs = [request.args[:2] for request in asked.requests[:n_requests]]
    encoded = encoder.pairs(pairs)
    passages, positions = share_contexts(encoded)
    n_tokens = [len(continuation) for _, continuation in encoded[: len(choices)]]
    gold = _gold(raw_gold, choices)
    answer = str(target) if asked.task.multiple_input else choices[gold[0]]
    if not answer:
        raise TaskError("the text after the choices is empty")
    return ChoiceExample(
        passages=passages,
        positions=positions,
        gold=gold,
        texts=tuple(TextSize.of(text, n) for text, n in zip(choices, n_tokens, strict=True)),
        answer=TextSize.of(answer, n_tokens[gold[0]]),
        own=asked.own,
    )


def _refuse_unanswerable(choices: Sequence[Any], raw_gold: Any) -> None:
    """Refuse too few, too many or empty choices, and a gold answer (not None) that is no choice."""
    if len(choices) < 2:
        raise TaskError(f"it has {len(choices)} choices; two at least are needed")
    if len(choices) > _MAX_CHOICES:
        raise TaskError(f"it has {len(choices):,} choices; at most {_MAX_CHOICES:,} are asked")
    for number, choice in enumerate(choices, 1):
        if not isinstance(choice, str):
            raise TaskError(f"choice {number} is {choice!r}; choices must be text")
        if not choice:
            raise TaskError(f"choice {number} is empty: {_shown(list(choices))}")
    if raw_gold is not None and any(
        not 0 <= one < len(choices) for one in _gold(raw_gold, choices)
    ):
        raise TaskError(
            f"the gold answer is {_shown(raw_gold)}, which is none of its "
            f"{len(choices)} choices {_shown(list(choices))}; does this split have labels?"
        )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _gold(raw: Any, choices: Sequence[str]) -> tuple[int, ...]:
    """The indices of the gold choices; -1 for one that is none of them."""
    found = []
    for one in (raw if isinstance(raw, list | tuple) else [raw]) or [None]:
        if isinstance(one, str) and one in choices:
            found.append(choices.index(one))
        else:
            found.append(int(one) if isinstance(one, int) else -1)
    return tuple(dict.fromkeys(found))


def _continuation(asked: _Asked, encoder: Encoder) -> ContinuationExample:
    context, text = asked.requests[0].args[:2]
    if not isinstance(text, str) or not text:
        raise TaskError(f"its continuation is {text!r}; it must be a text that is not empty")
    ((before, after),) = encoder.pairs([(context, text)])
    passages = (Passage(before, (after,)),)
    return ContinuationExample(passages, (TextSize.of(text, len(after)),), asked.own)


def _rolling(asked: _Asked, encoder: Encoder) -> RollingExample:
    (text,) = asked.requests[0].args[:1]
    if not isinstance(text, str):
        raise TaskError(f"its text is {text!r}, which is no text")
    passages = tuple(Passage(before, (after,)) for before, after in encoder.windows(text))
    n_tokens = sum(len(passage.continuations[0]) for passage in passages)
    task = asked.task
    if asked.own is None:
        n_bytes, n_words = task.count_bytes(text), task.count_words(text)
        units = {"word_perplexity": n_words, "byte_perplexity": n_bytes, "bits_per_byte": n_bytes}
        return RollingExample(passages, units, (TextSize(n_tokens, len(text), n_words, n_bytes),))
    # a task that counts words or bytes itself returns (log-likelihood, count)
    results = task.process_results(asked.doc, (-1.0,))
    pairs = {k: v for k, v in results.items() if k in METRICS.builtin and isinstance(v, tuple)}
    if any(pair[0] != -1.0 for pair in pairs.values()):
        raise TaskError("its process_results changes the log-likelihood, which can't be followed")
    units = {metric: int(pair[1]) for metric, pair in pairs.items()}
    return RollingExample(passages, units, (TextSize.of(text, n_tokens),))


def _generation(asked: _Asked, encoder: Encoder) -> GeneratedExample:
    context, arguments = asked.requests[0].args[:2]
    if not isinstance(context, str):
        raise TaskError(f"its question is {context!r}, which is no text")
    until, max_new_tokens = limits_of(arguments, encoder.end)
    answers = _answers(asked)
    passages: tuple[Passage, ...] = ()
    texts: tuple[TextSize, ...] = ()
    if answers:
        config = asked.task.config
        glued = asked.in_chat and (config.gen_prefix or " ")[-1:].isspace()  # as for choices
        ((before, after),) = encoder.pairs(
            [(context, answers[0] if glued else f"{config.target_delimiter}{answers[0]}")]
        )
        passages = (Passage(before, (after,)),)
        texts = (TextSize.of(answers[0], len(after)),)

    def judge(text: str) -> Mapping[str, float]:
        with asked.about():
            return judged(asked.task, asked.requests[0], asked.doc, text)

    tokens = encoder.prompt(context, max_new_tokens)
    return GeneratedExample(passages, Prompt(tokens, max_new_tokens, until, answers), texts, judge)


def _answers(asked: _Asked) -> tuple[str, ...]:
    """The gold answers as texts; none where the task names a number for all documents, or none."""
    _, _, target = asked.raw
    if isinstance(asked.task.config.doc_to_target, int):
        return ()
    if asked.task.config.doc_to_choice is not None and isinstance(target, int):
        target = asked.task.doc_to_choice(asked.doc)[target]
    several = target if isinstance(target, list | tuple) else [target]
    return tuple(str(one) for one in several if one is not None and str(one).strip())


_MAKERS: dict[str, Callable[[_Asked, Encoder], Example]] = {
    "multiple_choice": _choices,
    "loglikelihood": _continuation,
    "loglikelihood_rolling": _rolling,
    "generate_until": _generation,
}
