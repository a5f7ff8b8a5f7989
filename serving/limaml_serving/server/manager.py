"""The models being served: loads and unloads versions, and finds the version of a request."""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from limaml_serving.server.config import ModelSettings
from limaml_serving.server.errors import (
    StatusError,
    describe,
    failed_precondition,
    invalid,
    not_found,
)
from limaml_serving.server.runner import SavedModelRunner
from limaml_serving.server.versions import State, Version, find_versions

logger = logging.getLogger(__name__)

#: The disk counts as watched while the last check is no older than this many seconds, or ten polls.
_STALE_SECONDS = 60.0
#: Longest wait for a version that is being loaded when the server stops.
_STOP_SECONDS = 5.0


class ModelManager:
    """Loads and unloads versions as directories come and go, and leases loaded ones to requests.

    New versions are loaded before old ones are retired, so that a change of versions leaves no gap,
    and a model whose newest version cannot be loaded keeps its old one.

    Args:
        models: Settings by name.
        poll_seconds: Time between two checks of the disk.
        on_change: Called after each check.
        on_fault: Called for each folder that cannot be read, version that cannot be loaded, and
            check that failed otherwise.

    Attributes:
        last_check: Time of the last check of the disk without an unexpected error (Unix time); 0
            before.
    """

    def __init__(
        self,
        models: Mapping[str, ModelSettings],
        *,
        poll_seconds: float = 1.0,
        on_change: Callable[[], None] = lambda: None,
        on_fault: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = dict(models)
        self._poll_seconds = poll_seconds
        self._on_change = on_change
        self._on_fault = on_fault
        self._versions: dict[str, dict[int, Version]] = {}
        self._logged: dict[str, str] = {}  # last logged error, by subject
        self.last_check = 0.0
        self._progress = time.monotonic()
        self._changing = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Loads the existing versions, then keeps checking the disk in its own thread."""
        self.refresh()
        self._thread = threading.Thread(
            target=self._watch, name="limaml-serve-versions", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stops checking and retires every version; runs still in progress end as CANCELLED.

        A warm-up in progress ends too. A version that loads for more than a few seconds is left to
        its thread, which ends with the process.
        """
        self._stopped.set()
        for version in self._all_versions():
            version.stop_loading()
        free = self._changing.acquire(timeout=_STOP_SECONDS)
        for version in self._all_versions():
            version.retire()
            version.cancel()
        if free:
            self._changing.release()
            if self._thread is not None:
                self._thread.join(_STOP_SECONDS)

    def refresh(self) -> None:
        """Checks the disk once, and loads and retires accordingly.

        It does not raise: an error of one model is logged and counted, and the others are served.
        """
        with self._changing:
            healthy = True
            for settings in list(self._settings.values()):
                healthy &= self._run_guarded(
                    f"model {settings.name}", functools.partial(self._refresh_model, settings)
                )
            for name in self._versions.keys() - self._settings.keys():
                for version in self._versions[name].values():
                    version.retire()
            healthy &= self._run_guarded("after a check of the disk", self._on_change)
            if healthy:
                self.last_check = time.time()

    def is_watching(self) -> bool:
        """Whether new versions are detected.

        That is: the last step of a check is recent, and checks end without an unexpected error.
        """
        allowed = max(_STALE_SECONDS, 10 * self._poll_seconds)
        recent = time.monotonic() - self._progress < allowed
        return recent and time.time() - self.last_check < allowed + _STALE_SECONDS

    @contextmanager
    def lease(self, spec: Any) -> Iterator[tuple[int, SavedModelRunner]]:
        """The version number and the model of a ``ModelSpec``, kept loaded inside the block.

        Raises:
            StatusError: INVALID_ARGUMENT without a name or for an unknown label, NOT_FOUND if
                no such version is available.
        """
        version, runner = self._acquire(spec)
        try:
            yield version.number, runner
        finally:
            version.release()

    def statuses(self, name: str) -> dict[int, tuple[int, str]]:
        """State and error of every version ever seen of model `name`."""
        return {
            number: (version.state, version.error)
            for number, version in sorted(self._versions.get(name, {}).items())
        }

    def is_configured(self, name: str) -> bool:
        """True for a model of the current configuration."""
        return name in self._settings

    def available(self) -> dict[str, list[int]]:
        """Configured models and their available versions."""
        return {
            name: [n for n, (state, _) in self.statuses(name).items() if state == State.AVAILABLE]
            for name in list(self._settings)
        }

    def reload(self, models: Mapping[str, ModelSettings]) -> None:
        """Replaces the configuration; returns once it is in force.

        Raises:
            StatusError: FAILED_PRECONDITION if a label would move to a version that is not
                available (nothing is changed then); UNKNOWN if a new model has no version that
                can be served.
        """
        with self._changing:
            for name, settings in models.items():
                self._check_labels(name, settings)
            new_names = models.keys() - self._settings.keys()
            self._settings = dict(models)
        self.refresh()
        available = self.available()
        absent = sorted(name for name in new_names if not available.get(name))
        if absent:
            raise StatusError(
                grpc.StatusCode.UNKNOWN,
                f"no version became available of the new models {absent}; see GetModelStatus",
            )

    def _check_labels(self, name: str, settings: ModelSettings) -> None:
        old_labels = self._settings[name].labels if name in self._settings else {}
        states = self.statuses(name)
        for label, number in settings.labels.items():
            if (
                old_labels.get(label, number) != number
                and states.get(number, (State.UNKNOWN, ""))[0] != State.AVAILABLE
            ):
                raise failed_precondition(
                    f"Request to assign label {label} to version {number} of model {name}, which "
                    "is not currently available for inference"
                )

    def _acquire(self, spec: Any) -> tuple[Version, SavedModelRunner]:
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        number = self._number(spec)
        versions = self._versions.get(spec.name, {})
        # A version may be retired between look-up and lease. Its successor is then loaded, so the
        # highest version is tried first.
        for candidate in sorted(versions, reverse=True) if number is None else [number]:
            version = versions.get(candidate)
            runner = version.acquire() if version is not None else None
            if version is not None and runner is not None:
                return version, runner
        servable = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
        raise not_found(f"Servable not found for request: {servable}")

    def _number(self, spec: Any) -> int | None:
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return spec.version.value
        if choice == "version_label":
            settings = self._settings.get(spec.name)
            if settings is None or spec.version_label not in settings.labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            return settings.labels[spec.version_label]
        return None

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_seconds):
            self._run_guarded("watching", self.refresh)

    def _run_guarded(self, subject: str, work: Callable[[], None]) -> bool:
        """Runs `work`; if it fails, logs and counts the error and returns False."""
        self._progress = time.monotonic()
        try:
            work()
        except Exception as error:  # noqa: BLE001
            self._on_fault()
            self._log_once(subject, f"{type(error).__name__}: {describe(error)}", error)
            return False
        return True

    def _log_once(self, subject: str, text: str, error: Exception | None = None) -> None:
        """Logs an error once, until a different one occurs."""
        if self._logged.get(subject) != text:
            self._logged[subject] = text
            logger.error("%s: %s", subject, text, exc_info=error)

    def _refresh_model(self, settings: ModelSettings) -> None:
        versions = self._versions_on_disk(settings)
        if versions is None:
            return
        by_number = self._versions.get(settings.name, {})
        attempts: set[int] = set()
        while True:
            # A version that cannot be loaded does not count, so that "latest" falls back to the one
            # before it.
            failed = {
                n
                for n in versions
                if n in by_number
                and by_number[n].failed
                and (n in attempts or by_number[n].unchanged())
            }
            chosen = settings.policy.choose(versions.keys() - failed)
            missing = [
                n for n in sorted(chosen) if n not in by_number or by_number[n].state == State.END
            ]
            if not missing:
                break
            for number in missing:
                if self._stopped.is_set():
                    return
                version = Version(model=settings.name, number=number, directory=versions[number])
                by_number = {**by_number, number: version}
                self._versions = {**self._versions, settings.name: by_number}
                version.load(settings.base_path)
                if version.failed:
                    self._on_fault()
                self._progress = time.monotonic()
            attempts.update(missing)
        # Without versions to serve everything is unloaded; if all of them are damaged, nothing is.
        if chosen or not settings.policy.choose(versions):
            for number in by_number.keys() - chosen:
                by_number[number].retire()

    def _versions_on_disk(self, settings: ModelSettings) -> dict[int, Path] | None:
        subject = f"model {settings.name}: cannot read {settings.base_path}"
        try:
            versions = find_versions(settings.base_path)
        except OSError as error:
            self._on_fault()
            self._log_once(subject, describe(error))
            return None
        self._logged.pop(subject, None)
        return versions

    def _all_versions(self) -> list[Version]:
        return [version for versions in self._versions.values() for version in versions.values()]
