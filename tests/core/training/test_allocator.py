"""Memory that a thread frees, after `keep_freed_memory`."""

import ctypes
import platform
import resource
import threading

import pytest
import tensorflow as tf

from tfrec_limaml.training.allocator import keep_freed_memory

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has this setting"
)
BUFFERS, BYTES = 64, 2**20


@pytest.fixture(autouse=True)
def forget():
    keep_freed_memory.cache_clear()
    yield
    keep_freed_memory.cache_clear()
    keep_freed_memory()


def page_faults():
    """Of a thread that allocates, writes and frees memory for the third time."""
    library, faults = ctypes.CDLL(None), []
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes = [ctypes.c_size_t]
    library.free.argtypes = [ctypes.c_void_p]

    def steps():
        for _ in range(3):
            before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
            buffers = [library.malloc(BYTES) for _ in range(BUFFERS)]
            for buffer in buffers:
                ctypes.memset(buffer, 1, BYTES)
            for buffer in buffers:
                library.free(buffer)
            faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)

    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
    return faults[-1]


def use_a_generator():
    spec = tf.TensorSpec([], tf.int64)
    assert len(list(tf.data.Dataset.from_generator(lambda: [1, 2], output_signature=spec))) == 2


def test_freed_memory_is_there_for_the_next_step_whatever_tensorflow_sets():
    ctypes.CDLL(None).mallopt(-3, 2**17)  # as TensorFlow does at its first generator
    pages = BUFFERS * BYTES // resource.getpagesize()
    assert page_faults() > 0.9 * pages
    assert keep_freed_memory()
    use_a_generator()
    assert page_faults() < 0.1 * pages


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_stay(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert not keep_freed_memory()
