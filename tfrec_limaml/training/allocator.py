"""Sets the C library's memory allocator for training under a strategy."""

from __future__ import annotations

import ctypes
import functools
import os

import tensorflow as tf

#: Parameters of glibc's ``mallopt``, and the largest values that glibc itself chooses for them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_TRIM_BYTES, _MMAP_BYTES = 2**26, 2**25


@functools.cache
def keep_freed_memory() -> bool:
    """Makes glibc keep the memory that a training step frees, for the next step.

    TensorFlow's first generator dataset in a process, which datasets of a strategy use, makes glibc
    return each freed block of 128 KiB or more to the system. A step then has a page fault for each
    page of its tensors, which takes a third of the CPU time of a worker.

    Returns:
        True if the allocator was set; False if the environment sets ``MALLOC_MMAP_THRESHOLD_`` or
        ``GLIBC_TUNABLES``, or with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or {"MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"} & os.environ.keys():
        return False
    spec = tf.TensorSpec([], tf.int64)
    for _ in tf.data.Dataset.from_generator(lambda: [0], output_signature=spec):
        pass  # TensorFlow changes the settings here, and not again
    return bool(mallopt(_MMAP_THRESHOLD, _MMAP_BYTES) and mallopt(_TRIM_THRESHOLD, _TRIM_BYTES))
