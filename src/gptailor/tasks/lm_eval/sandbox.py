"""Sandbox: where the templates of task files are rendered, so that none can run code.

lm-eval renders them in one Jinja environment of its own, which lets a template reach any object of
Python. Here that environment is exchanged for a sandboxed one that is like it in all else, for as
long as somebody is inside `in_sandbox`; then lm-eval has its own back. Knows nothing of tasks.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, MutableMapping
from functools import lru_cache
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["in_sandbox", "sandbox_like"]

_MAX_ITEMS = 10**6  # of a text or list that a template multiplies
_MAX_BITS = 10**4  # of a number that it multiplies or raises
_MAX_COMPILED = 256  # templates kept; lm-eval asks for the same few with every document
_SYNTAX = (
    *("block_start_string", "block_end_string", "variable_start_string", "variable_end_string"),
    *("comment_start_string", "comment_end_string", "line_statement_prefix"),
    *("line_comment_prefix", "trim_blocks", "lstrip_blocks", "newline_sequence"),
    *("keep_trailing_newline", "optimized", "undefined", "finalize", "autoescape", "loader"),
)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Compiles each text once: that takes longer than all that is done with it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._compiled = lru_cache(_MAX_COMPILED)(super().from_string)

    def from_string(
        self,
        source: str | nodes.Template,
        globals: MutableMapping[str, Any] | None = None,
        template_class: type[Template] | None = None,
    ) -> Template:
        if isinstance(source, str) and globals is None and template_class is None:
            return self._compiled(source)
        return super().from_string(source, globals, template_class)


class _Exchange:
    """Counts who is inside, in whatever thread; the first takes lm-eval's environment away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_inside = 0
        self._theirs: Environment | None = None

    def enter(self, module: Any) -> None:
        with self._lock:
            if self._n_inside == 0:
                self._theirs, module.env = module.env, sandbox_like(module.env)
            self._n_inside += 1

    def leave(self, module: Any) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                module.env, self._theirs = self._theirs, None


_exchange = _Exchange()


@contextlib.contextmanager
def in_sandbox() -> Iterator[None]:
    """Let lm-eval render templates in a sandbox; may be nested, and used by several threads.

    A template that reaches for what it may not raises jinja2's `SecurityError`.
    """
    from lm_eval import utils

    _exchange.enter(utils)
    try:
        yield
    finally:
        _exchange.leave(utils)


def sandbox_like(theirs: Environment) -> ImmutableSandboxedEnvironment:
    """Make a sandboxed environment with another's syntax, filters, tests and undefined values.

    In it a template reaches no private attribute and changes no list or mapping; `range` gives
    100,000 items at most, and a product or power has a limit, too.
    """
    sandbox = _Sandbox(
        extensions=list(theirs.extensions), **{name: getattr(theirs, name) for name in _SYNTAX}
    )
    sandbox.filters.update(theirs.filters)
    sandbox.tests.update(theirs.tests)
    sandbox.intercepted_binops = frozenset({"*", "**"})
    for sign, oversize in {"*": _large_product, "**": _large_power}.items():
        sandbox.binop_table[sign] = _limited(sandbox.binop_table[sign], oversize)
    return sandbox


def _limited(
    compute: Callable[[Any, Any], Any], oversize: Callable[[Any, Any], bool]
) -> Callable[[Any, Any], Any]:
    def computed(left: Any, right: Any) -> Any:
        if oversize(left, right):
            raise SecurityError("a product or power is too large")
        return compute(left, right)

    return computed


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
