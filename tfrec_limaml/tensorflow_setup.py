"""TensorFlow's import without the page that it writes to standard error before any log level
counts.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading

_NOISE = re.compile(
    rb"(?m)^(?:WARNING: All log messages before absl::InitializeLog\(\) is called|[IWE]\d{4} \d\d:\d\d:\d+\.\d+ ).*\n?"  # noqa: E501
)

_lock = threading.Lock()


def import_tensorflow() -> None:
    """Imports TensorFlow and looks for devices, without their log lines; other lines are shown when
    it is over.

    Does nothing where TensorFlow is there already, or where ``TF_CPP_MIN_LOG_LEVEL`` (2 for
    ``limaml``, unless set) is below 2.
    """
    with _lock:  # two at once would each restore what the other had replaced
        if (
            "tensorflow" in sys.modules
            or sys.stderr is None
            or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2"
        ):
            return
        _import_quietly()


def _import_quietly() -> None:
    sys.stderr.flush()
    shown = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        noise = _NOISE
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            noise = re.compile(rb"(?!)")  # all of it may tell why
            raise
        finally:
            os.dup2(shown, 2)
            kept.seek(0)
            with contextlib.suppress(OSError):  # a full disk below stderr stops no command
                os.write(shown, noise.sub(b"", kept.read()))
            os.close(shown)
