"""The decorator that binds a function to the facts of a merge method.

Knows the functions by name and nothing of how they are called; `gptailor.merge.apply` does that,
and imports the file of every method, so that `FUNCTIONS` is whole.
"""

from collections.abc import Callable
from typing import ParamSpec

from torch import Tensor

from gptailor.core.merge_spec import MERGE_METHODS

__all__ = ["FUNCTIONS", "merge_method"]

_P = ParamSpec("_P")

FUNCTIONS: dict[str, Callable[..., Tensor]] = {}
"""Each method's function by its name: ``(tensors, base, **params)`` or ``(tensors, **params)``."""


def merge_method(name: str) -> Callable[[Callable[_P, Tensor]], Callable[_P, Tensor]]:
    """Bind a function to the facts that `gptailor.core.merge_spec` holds under `name`.

    The function gets at least two float32 tensors of one shape, all finite, in the order of the
    sources; then the base where the facts say so; and every parameter by keyword. It returns a new
    float32 tensor and leaves its inputs as they are.

    Args:
        name: The method's name in configs and tailorings.
    """
    assert name in MERGE_METHODS, f"{name!r} has no facts in gptailor.core.merge_spec"
    assert name not in FUNCTIONS, f"{name!r} is bound twice"

    def bind(function: Callable[_P, Tensor]) -> Callable[_P, Tensor]:
        FUNCTIONS[name] = function
        return function

    return bind
