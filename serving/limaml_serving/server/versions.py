"""Version directories on disk, and the life cycle of one loaded version."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from pathlib import Path

from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from limaml_serving.server.errors import describe
from limaml_serving.server.runner import LoadError, SavedModelRunner
from limaml_serving.server.warmup import warm_up
from tfrec_limaml.version_folders import version_number

logger = logging.getLogger(__name__)

State = ModelVersionStatus.State

_LARGEST_VERSION = 2**63 - 1


def find_versions(base_path: Path) -> dict[int, Path]:
    """The version directories below `base_path`, by number; raises OSError if it cannot be read."""
    folders: dict[int, Path] = {}
    with os.scandir(base_path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            number = version_number(entry.name)
            if number is not None and number <= _LARGEST_VERSION and os.path.isdir(entry.path):
                folders[number] = Path(entry.path)
    return folders


def fingerprint(directory: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and modification time of `directory` and of every file below it.

    It changes while a copy is in progress.
    """
    entries = [(str(directory), *_size_and_time(os.lstat(directory)))]
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            try:
                entries.append((path, *_size_and_time(os.stat(path))))
            except OSError:
                continue  # a file that is being renamed; the next check sees it
    return tuple(sorted(entries))


def _size_and_time(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def check_inside(directory: Path, base_path: Path) -> None:
    """Raises `LoadError` if `directory` or a file in it is a link that leads out of `base_path`."""
    base = os.path.realpath(base_path)
    paths = [str(directory)]
    paths += [
        os.path.join(folder, name)
        for folder, inner, files in os.walk(directory)
        for name in (*inner, *files)
    ]
    for path in paths:
        if os.path.islink(path) and os.path.commonpath([base, os.path.realpath(path)]) != base:
            raise LoadError(
                f"{path} is a link that leads out of {base_path}: copy the files into the version "
                "directory"
            )


@dataclasses.dataclass(kw_only=True)
class Version:
    """One version of one model, from its discovery to its end.

    Attributes:
        model: Name of the model.
        number: The version.
        directory: Where it was found.
        state: As in ``GetModelStatus``.
        error: Why loading (or unloading) failed; empty otherwise.
        fingerprint_before: `fingerprint` of the directory before it was loaded.
    """

    model: str
    number: int
    directory: Path
    state: int = State.START
    error: str = ""
    fingerprint_before: tuple[tuple[str, int, int], ...] = ()
    runner: SavedModelRunner | None = None
    _warming_up: SavedModelRunner | None = None
    _stopped: bool = False
    _users: int = 0
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @property
    def failed(self) -> bool:
        """True if it could not be loaded."""
        return bool(self.error)

    def unchanged(self) -> bool:
        """True if the files have not changed since before loading."""
        try:
            return fingerprint(self.directory) == self.fingerprint_before
        except OSError:
            return False

    def load(self, base_path: Path) -> None:
        """Loads and warms up; always ends AVAILABLE, or END with an `error`."""
        self.state = State.LOADING
        try:
            runner, warmup_count = self._load_runner(base_path)
        except Exception as error:  # noqa: BLE001 - an error of one version must not affect others
            message = describe(error)
            expected = isinstance(error, LoadError)
            self.error = message if expected else f"{type(error).__name__}: {message}"
            self.state = State.END
            logger.error(
                "model %s version %d is not served: %s", self.model, self.number, self.error
            )
            return
        self.runner, self.state = runner, State.AVAILABLE
        logger.info(
            "model %s version %d is available (%d warm-up requests)",
            self.model,
            self.number,
            warmup_count,
        )

    def _load_runner(self, base_path: Path) -> tuple[SavedModelRunner, int]:
        self.fingerprint_before = fingerprint(self.directory)
        check_inside(self.directory, base_path)
        runner = SavedModelRunner(self.directory)
        try:
            with self._lock:
                self._warming_up = runner
            self._check_not_stopped()
            count = warm_up(runner, self.directory)
            with self._lock:
                self._warming_up = None
            self._check_not_stopped()
            return runner, count
        except BaseException:
            with self._lock:
                self._warming_up = None
            runner.close()
            raise

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise LoadError("the server stops")

    def stop_loading(self) -> None:
        """Ends a warm-up in progress, so that `load` ends with an error soon."""
        with self._lock:
            self._stopped = True
            if self._warming_up is not None:
                self._warming_up.cancel()

    def acquire(self) -> SavedModelRunner | None:
        """The loaded model, kept until `release`; ``None`` if it is not available."""
        with self._lock:
            if self.state != State.AVAILABLE:
                return None
            self._users += 1
            return self.runner

    def release(self) -> None:
        """Releases the model; the last user of a retired version frees it."""
        with self._lock:
            self._users -= 1
            self._free_if_idle()

    def retire(self) -> None:
        """Accepts no new request; the model is freed once the running requests have ended."""
        with self._lock:
            if self.state == State.AVAILABLE:
                self.state = State.UNLOADING
                self._free_if_idle()

    def cancel(self) -> None:
        """Ends the running requests of a retired version with CANCELLED."""
        with self._lock:
            if self.runner is not None and self.state == State.UNLOADING:
                self.runner.cancel()

    def _free_if_idle(self) -> None:
        if self._users == 0 and self.state == State.UNLOADING and self.runner is not None:
            runner, self.runner = self.runner, None
            self.state = State.END
            try:
                runner.close()
            except Exception as error:  # noqa: BLE001
                self.error = f"unloading failed: {type(error).__name__}: {describe(error)}"
                logger.error("model %s version %d: %s", self.model, self.number, self.error)
            else:
                logger.info("model %s version %d is unloaded", self.model, self.number)
