"""lm-eval's task object for local task files: templates are rendered in a sandbox.

lm-eval renders templates in an environment that lets them reach any object of Python. This class
overrides each method that renders one, and names the template in an error. Importing it imports
lm-eval.
"""

import ast
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from lm_eval.api.task import ConfigurableTask

from gptailor.errors import TaskError
from gptailor.tasks.lm_eval.building import BUILD_ERRORS, example_label, one_line, why_refused
from gptailor.tasks.lm_eval.sandbox import sandbox

__all__ = ["FirstExampleError", "SandboxedTask"]

Doc = Mapping[str, Any]


class FirstExampleError(TaskError):
    """The first example, which lm-eval tries when it makes a task, can't be asked.

    Args:
        task: The task's name in lm-eval.
        sentence: Which example, and what is wrong.
    """

    def __init__(self, task: str, sentence: str) -> None:
        super().__init__(sentence)
        self.task = task


class SandboxedTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval has no types
    """A task whose templates reach no private attribute, function or module.

    Args:
        config: lm-eval's; its key ``class``, which names this class, is left out.

    Raises:
        FirstExampleError: lm-eval could not try the first example.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.task_docs: Any = None
        try:
            super().__init__(config={key: config[key] for key in config if key != "class"})
        except (TaskError, *BUILD_ERRORS) as error:
            if self.task_docs is None:  # it failed before there was an example
                raise
            problem = why_refused(self, self.task_docs[0]) or one_line(error)
            place = example_label(self, 0)
            raise FirstExampleError(self.config.task, f"{place}: {problem}") from error

    def doc_to_text(self, doc: Doc, doc_to_text: Any = None) -> Any:
        """The context; a number that is the gold choice where the choices are contexts."""
        template = self.config.doc_to_text if doc_to_text is None else doc_to_text
        with _naming("doc_to_text"):
            if not self._is_template(template):
                return super().doc_to_text(doc, template)
            return self._index_or_text(_render(template, doc))

    def doc_to_target(self, doc: Doc, doc_to_target: Any = None) -> Any:
        """The gold answer: text, index, or a list of them."""
        template = self.config.doc_to_target if doc_to_target is None else doc_to_target
        with _naming("doc_to_target"):
            if not self._is_template(template):
                return super().doc_to_target(doc, template)
            text = _render(template, doc)
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
            text = _render(template, doc)
            try:
                return ast.literal_eval(text)
            except (SyntaxError, ValueError) as error:
                raise TaskError(
                    f"doc_to_choice: is no list of choices such as ['a', 'b'] ({one_line(error)})"
                ) from None

    def doc_to_prefix(self, doc: Doc) -> Any:
        """The beginning of every answer, or None."""
        with _naming("gen_prefix"):
            if not self._is_template(self.config.gen_prefix):
                return super().doc_to_prefix(doc)
            return _render(self.config.gen_prefix, doc)

    def resolve_field(self, doc: Doc, field: str | None = None) -> Any:
        """The description, or the beginning of a few-shot answer."""
        with _naming("description" if field == self.config.description else "gen_prefix"):
            if not field:
                return None
            return doc[field] if field in doc else _render(field, doc)

    def _is_template(self, value: object) -> bool:
        """Whether it is rendered: not a column's name, a list, a number or a function."""
        return self.prompt is None and isinstance(value, str) and value not in self.features

    def _index_or_text(self, text: str) -> Any:
        if text.isdigit() and self.config.doc_to_choice is not None:
            return ast.literal_eval(text)
        return text


def _render(template: str, doc: Doc) -> str:
    return sandbox().from_string(template).render(**doc)


@contextlib.contextmanager
def _naming(key: str) -> Iterator[None]:
    """Name the template in an error."""
    try:
        yield
    except BUILD_ERRORS as error:
        raise TaskError(f"{key}: {one_line(error)}") from error
