"""Memory that a thread frees, after `keep_freed_memory`."""

import platform
import subprocess
import sys

import pytest

from tfrec_limaml.training.allocator import keep_freed_memory

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc has this setting"
)

#: Prints the page faults of a thread that allocates, writes and frees 24 MiB for the third time,
#: before and after.
_SCRIPT = """
import ctypes, resource, threading
from tfrec_limaml.tensorflow_setup import import_tensorflow
import_tensorflow(keras=False)
import tensorflow as tf
from tfrec_limaml.training.allocator import keep_freed_memory

library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.malloc.argtypes = [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def steps():
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        buffers = [library.malloc(2**20) for _ in range(24)]
        for buffer in buffers:
            ctypes.memset(buffer, 1, 2**20)
        for buffer in buffers:
            library.free(buffer)
        faults = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before
    print(faults)

def measure():
    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()

def use_a_generator():
    spec = tf.TensorSpec([], tf.int64)
    list(tf.data.Dataset.from_generator(lambda: [1], output_signature=spec))

library.mallopt(-3, 2**17)  # as the first generator does
measure()
assert keep_freed_memory()
use_a_generator()
measure()
"""


def test_freed_memory_is_there_for_the_next_step_after_a_generator_too(monkeypatch):
    for name in ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-c", _SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before > 24 * 2**20 // 4096 // 2
    assert after < before / 10


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_stay(monkeypatch, name):
    keep_freed_memory.cache_clear()
    monkeypatch.setenv(name, "")
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
