"""Imports TensorFlow faster and without its log lines.

TensorFlow writes some log lines to standard error regardless of log levels. The garbage collector
takes time during an import and frees nothing, so it is off.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.abc
import importlib.machinery
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import ModuleType
from typing import Any

_NOISE = re.compile(
    rb"(?m)^(?:WARNING: All log messages before absl::InitializeLog\(\) is called|[IWE]\d{4} \d\d:\d\d:\d+\.\d+ ).*\n?"  # noqa: E501
)

_lock = threading.Lock()


def import_tensorflow(*, keras: bool = True) -> None:
    """Imports TensorFlow and looks for devices, without TensorFlow's log lines.

    Other lines are shown afterwards. The garbage collector ignores the modules from then on.

    Does nothing if TensorFlow is already imported, or if ``TF_CPP_MIN_LOG_LEVEL`` (2 for
    ``limaml``, unless set) is below 2.

    Args:
        keras: Import Keras too, as TensorFlow does by itself, but without its wrappers for
            scikit-learn. A process that only runs exported models starts earlier without Keras. A
            later import of Keras, or of scikit-learn, works as usual.
    """
    with _lock:  # two threads would restore each other's replacement of standard error
        if (
            "tensorflow" in sys.modules
            or sys.stderr is None
            or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2"
        ):
            return
        _import_quietly(keras)


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """A context without the garbage collector, which later ignores the modules imported in it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if enabled:
            gc.enable()


class _ImportedLater(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a package for the thread that created it, but does not load it.

    A library that can use the package sees that it is installed, and continues without it.
    """

    def __init__(self, package: str) -> None:
        self._package = package
        self._thread = threading.get_ident()

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._package or threading.get_ident() != self._thread:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname)
        if spec is not None:
            spec.loader = self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        raise ImportError(f"{self._package} is imported when it is needed")


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """A context in which this thread cannot import the package, unless it is already imported."""
    finder = _ImportedLater(package)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def _import_quietly(keras: bool) -> None:
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        noise = _NOISE
        try:
            # Keras imports scikit-learn, for wrappers that no command uses. That takes a quarter of
            # the time.
            with _without_collector(), _without("sklearn" if keras else "keras"):
                import tensorflow as tf

            tf.config.list_physical_devices()
        except BaseException:
            noise = re.compile(rb"(?!)")  # show all lines: any may tell the reason
            raise
        finally:
            os.dup2(stderr, 2)
            captured.seek(0)
            with contextlib.suppress(OSError):  # standard error may be a file on a full disk
                os.write(stderr, noise.sub(b"", captured.read()))
            os.close(stderr)
