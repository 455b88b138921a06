"""The Jinja environment in which the templates of task files are rendered: they can't run code."""

from collections.abc import Callable, MutableMapping
from functools import cache, lru_cache
from typing import Any

from jinja2 import Environment, Template, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["sandbox", "sandbox_like"]

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
    """Compiles each template once: compiling is the slowest step."""

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


@cache
def sandbox() -> ImmutableSandboxedEnvironment:
    """The sandbox for lm-eval's templates; one that breaks out raises `SecurityError`."""
    from lm_eval import utils

    return sandbox_like(utils.env)


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
