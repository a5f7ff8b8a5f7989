"""Imports TensorFlow without the log lines that it writes to standard error regardless of log
levels, and without the garbage collector, which takes time and frees nothing during an import.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

_NOISE = re.compile(
    rb"(?m)^(?:WARNING: All log messages before absl::InitializeLog\(\) is called|[IWE]\d{4} \d\d:\d\d:\d+\.\d+ ).*\n?"  # noqa: E501
)

_lock = threading.Lock()


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, without their log lines; other lines are shown
    afterwards. The garbage collector ignores the modules from then on.

    Does nothing if TensorFlow is already imported, or if ``TF_CPP_MIN_LOG_LEVEL`` (2 for
    ``limaml``, unless set) is below 2.
    """
    with _lock:  # two at once would restore each other's replacement
        if (
            "tensorflow" in sys.modules
            or sys.stderr is None
            or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2"
        ):
            return
        _import_quietly()


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Imports inside it run without the collector, which ignores the imported modules later."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


def _import_quietly() -> None:
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        noise = _NOISE
        try:
            with _without_collector():
                import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            noise = re.compile(rb"(?!)")  # any of it may show the reason
            raise
        finally:
            os.dup2(stderr, 2)
            captured.seek(0)
            with contextlib.suppress(OSError):  # a full disk below stderr stops no command
                os.write(stderr, noise.sub(b"", captured.read()))
            os.close(stderr)
