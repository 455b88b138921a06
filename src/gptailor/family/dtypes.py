"""The dtypes that a family may have, and the fastest of them on this machine."""

import timeit
from functools import cache, partial

import torch

from gptailor.errors import FamilyError, unknown

__all__ = ["DTYPES", "dtype_of"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def dtype_of(wanted: str | torch.dtype, device: str) -> torch.dtype:
    """The dtype to compute in; `auto` is bfloat16 on a GPU, and on a CPU the faster of the two.

    Raises:
        FamilyError: There is no dtype of this name.
    """
    if isinstance(wanted, torch.dtype):
        return wanted
    if wanted not in ("auto", *DTYPES):
        raise FamilyError(unknown("dtype", wanted, ("auto", *DTYPES)))
    if wanted != "auto":
        return DTYPES[wanted]
    return torch.bfloat16 if device != "cpu" else _faster_on_cpu()


@cache
def _faster_on_cpu() -> torch.dtype:
    """The dtype with the best time of a few matrix products of a small layer's size."""

    def seconds(dtype: torch.dtype) -> float:
        left, right = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        product = partial(torch.nn.functional.linear, left, right)
        return min(timeit.repeat(product, number=1, repeat=4))

    return min((torch.float32, torch.bfloat16), key=seconds)
