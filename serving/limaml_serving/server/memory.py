"""Returns freed memory to the operating system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Returns freed memory if the C library is glibc; others neither have nor need such a call.

    Several threads allocate and free a model, and glibc keeps the memory that each of them freed
    for later use: a server that changes versions under load would grow by tens of megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
