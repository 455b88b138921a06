"""Whether a fault is lack of memory, whichever library ran out of it.

Told by its words, for not every library has a type for it, and torch may not have been imported.
"""

__all__ = ["is_out_of_memory"]

# torch's allocators; the loader of shared libraries; oneDNN, which names what it had no room for
_WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "failed to map segment",
    "could not create a memory",
    "could not create a primitive",
    "could not execute a primitive",
)
_UNSUPPORTED = "could not create a primitive descriptor"  # oneDNN has no such product


def is_out_of_memory(fault: BaseException) -> bool:
    """Whether there was too little memory, of the machine's or of a device's."""
    if isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError":
        return True
    told = str(fault)
    if not isinstance(fault, RuntimeError | ImportError) or _UNSUPPORTED in told:
        return False
    return any(words in told for words in _WORDS)
