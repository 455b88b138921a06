"""Lack of memory is known by what each library says of it, and nothing else is taken for it."""

import pytest
import torch

from gptailor.errors import is_out_of_memory
from gptailor.tasks.lm_eval.building import why_not_made


def raised_by_torch() -> RuntimeError:
    """What torch says of a block that no machine has."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46, dtype=torch.float64)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("could not create a primitive"),
        RuntimeError("could not create a memory object"),
        RuntimeError("could not execute a primitive"),
        RuntimeError("MPS backend out of memory"),
        ImportError("libgomp.so.1: failed to map segment from shared object"),
    ],
    ids=lambda error: f"{type(error).__name__}({error})",
)
def test_what_libraries_say_of_too_little_memory(error: BaseException) -> None:
    assert is_out_of_memory(error)


def test_what_torch_itself_raises() -> None:
    assert is_out_of_memory(raised_by_torch())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        RuntimeError("could not create a primitive descriptor for the matmul primitive"),
        ImportError("No module named 'ray'"),
        ValueError("out of memory, says a template"),
    ],
    ids=str,
)
def test_what_is_another_problem(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def test_a_task_is_not_blamed_for_a_machine_without_memory() -> None:
    told = why_not_made("tasks/riddles.yaml: task 'riddles'", MemoryError())
    assert told.startswith("tasks/riddles.yaml: task 'riddles': ")
    assert "too little memory" in told
    assert "keys" not in told
