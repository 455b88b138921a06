"""Let glibc keep the pages of freed tensors.

By default it returns every large block to the system, and the next tensor of the same size costs a
page fault for each page.
"""

import ctypes
import platform

__all__ = ["keep_freed_pages"]

# parameters of mallopt(3)
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_pages() -> None:
    """Raise malloc's thresholds: blocks up to 1 GiB come from the heap. Only with glibc.

    A bare float32 layer of hidden size 576 ran 4 to 10 % faster with it on one thread of an AMD
    EPYC with AVX-512.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_THRESHOLD, ctypes.c_int(2**30))
    mallopt(_M_TRIM_THRESHOLD, ctypes.c_int(2**31 - 1))
    mallopt(_M_TOP_PAD, ctypes.c_int(64 * 2**20))
