"""lm-eval's task object for local task files: templates are rendered in a sandbox of Jinja.

lm-eval's own environment lets a template reach any object of Python. Imports lm-eval.
"""

import ast
import contextlib
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from jinja2 import Environment, Template
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from lm_eval import utils
from lm_eval.api.task import ConfigurableTask

from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.building import BUILD_ERRORS, example_label, one_line, why_refused

__all__ = ["FirstExampleError", "SandboxedTask", "compiled", "sandbox_like"]

Doc = Mapping[str, Any]

_MAX_ITEMS = 10**6  # of a text or list that a template multiplies
_MAX_BITS = 10**4  # of a number that it multiplies or raises
_MAX_COMPILED = 256  # templates; each is asked for with every document, and slow to compile
_SYNTAX = (
    *("block_start_string", "block_end_string", "variable_start_string", "variable_end_string"),
    *("comment_start_string", "comment_end_string", "line_statement_prefix"),
    *("line_comment_prefix", "trim_blocks", "lstrip_blocks", "newline_sequence"),
    *("keep_trailing_newline", "optimized", "undefined", "finalize", "autoescape", "loader"),
)


class _Sandbox(ImmutableSandboxedEnvironment):
    """An environment that limits products and powers."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if (_large_product if operator == "*" else _large_power)(left, right):
            raise SecurityError("a product or power is too large")
        return super().call_binop(context, operator, left, right)


@lru_cache(_MAX_COMPILED)
def compiled(template: str) -> Template:
    """A template of lm-eval in the sandbox; one that breaks out raises `SecurityError`."""
    return _sandbox().from_string(template)


@cache
def _sandbox() -> Environment:
    return sandbox_like(utils.env)


def sandbox_like(theirs: Environment) -> ImmutableSandboxedEnvironment:
    """A sandboxed environment with another's syntax, filters, tests and undefined values.

    In it a template reaches no private attribute and changes no list or mapping; `range`, products
    and powers are limited.
    """
    sandbox = _Sandbox(
        extensions=list(theirs.extensions), **{name: getattr(theirs, name) for name in _SYNTAX}
    )
    sandbox.filters.update(theirs.filters)
    sandbox.tests.update(theirs.tests)
    return sandbox


def _large_product(left: Any, right: Any) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length() > _MAX_BITS
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(many, str | bytes | list | tuple):
            return len(many) * times > _MAX_ITEMS
    return False


def _large_power(left: Any, right: Any) -> bool:
    both = isinstance(left, int) and isinstance(right, int)
    return both and left.bit_length() * right > _MAX_BITS


class FirstExampleError(TaskError):
    """The first example, which lm-eval tries when it makes a task, can't be asked."""

    def __init__(self, task: str, sentence: str) -> None:
        super().__init__(sentence)
        self.task = task


class SandboxedTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval has no types
    """A task whose templates reach no private attribute, function or module."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.task_docs: Any = None
        try:
            super().__init__(config={key: config[key] for key in config if key != "class"})
        except (TaskError, *BUILD_ERRORS) as error:
            if self.task_docs is None:  # it failed before there was an example
                raise
            problem = why_refused(self, self.task_docs[0]) or one_line(error)
            sentence = f"{example_label(self, 0)}: {problem}"
            raise FirstExampleError(self.config.task, sentence) from error

    def doc_to_text(self, doc: Doc, doc_to_text: Any = None) -> Any:
        """The context; a number that is the gold choice where the choices are contexts."""
        template = self.config.doc_to_text if doc_to_text is None else doc_to_text
        with _naming("doc_to_text"):
            if self._is_template(template):
                return self._index_or_text(compiled(template).render(**doc))
            return super().doc_to_text(doc, template)

    def doc_to_target(self, doc: Doc, doc_to_target: Any = None) -> Any:
        """The gold answer: text, index, or a list of them."""
        template = self.config.doc_to_target if doc_to_target is None else doc_to_target
        with _naming("doc_to_target"):
            if not self._is_template(template):
                return super().doc_to_target(doc, template)
            text = compiled(template).render(**doc)
            if len(text) >= 2 and text[0] == "[" and text[-1] == "]":
                with contextlib.suppress(SyntaxError, ValueError):
                    return ast.literal_eval(text)
            return self._index_or_text(text)

    def doc_to_choice(self, doc: Doc, doc_to_choice: Any = None) -> Any:
        """The choices."""
        template = self.config.doc_to_choice if doc_to_choice is None else doc_to_choice
        with _naming("doc_to_choice"):
            if not self._is_template(template):
                return super().doc_to_choice(doc, template)
            text = compiled(template).render(**doc)
            try:
                return ast.literal_eval(text)
            except (SyntaxError, ValueError) as error:
                raise TaskError(
                    f"doc_to_choice: is no list of choices such as ['a', 'b'] ({one_line(error)})"
                ) from None

    def doc_to_prefix(self, doc: Doc) -> Any:
        """The beginning of every answer, or None."""
        with _naming("gen_prefix"):
            if self._is_template(self.config.gen_prefix):
                return compiled(self.config.gen_prefix).render(**doc)
            return super().doc_to_prefix(doc)

    def resolve_field(self, doc: Doc, field: str | None = None) -> Any:
        """The description, or the beginning of a few-shot answer."""
        with _naming("description" if field == self.config.description else "gen_prefix"):
            if not field:
                return None
            return doc[field] if field in doc else compiled(field).render(**doc)

    def _is_template(self, value: object) -> bool:
        """Whether it is rendered: not a column's name, a list, a number or a function."""
        return self.prompt is None and isinstance(value, str) and value not in self.features

    def _index_or_text(self, text: str) -> Any:
        if text.isdigit() and self.config.doc_to_choice is not None:
            return ast.literal_eval(text)
        return text


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Name the template in an error."""
    try:
        yield
    except BUILD_ERRORS as error:
        raise TaskError(f"{key}: {one_line(error)}") from error
