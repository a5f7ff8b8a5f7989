"""Returns freed memory to the operating system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Returns freed memory if the C library is glibc; others have no such call and need none.

    A model is allocated and freed by several threads, and glibc keeps what each of them freed for
    its own later use: a server that changes versions under load would grow by tens of megabytes.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
