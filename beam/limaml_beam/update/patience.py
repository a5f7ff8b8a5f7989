"""An updater that keeps running: it waits for the store and for refreshes, which it follows."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from limaml_beam.io.folder_lock import UPDATE, BusyError, exclusive
from limaml_beam.update.adapting import OtherModelError
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.plan import Plan, read_plan
from tfrec_limaml.errors import LimamlError, StoreError, VersionMismatchError

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 60.0
#: Receives the report of every update; ``{"waiting": reason}`` while the updater waits, and
#: ``{"waited": seconds}`` when it goes on; ``{"broker": reason}`` with an error of a Kafka broker,
#: and ``{"refused_file": path}`` with a file of an unknown format.
Tell: TypeAlias = Callable[[dict[str, Any]], None]
Sleep: TypeAlias = Callable[[float], None]


def check_idle(seconds: float | None) -> None:
    """Raises `LimamlError` if the time after which an idle stream ends is negative."""
    if seconds is not None and not seconds >= 0:
        raise LimamlError(
            f"idle_seconds (--stop-when-idle) must not be negative, received {seconds}"
        )


@dataclasses.dataclass
class Totals:
    """Totals of a stream."""

    updates: int = 0
    rows: int = 0
    tasks: int = 0
    upserted: int = 0
    dead_letters: int = 0
    waits: int = 0

    def add(self, report: dict[str, Any]) -> None:
        """Counts one update."""
        self.updates += 1
        self.rows += report["rows"]["read"]
        for name in ("tasks", "upserted", "dead_letters"):
            setattr(self, name, getattr(self, name) + report[name])


class PatientUpdater:
    """Runs updates, one after another.

    Args:
        settings: The updater's settings.
        tell: Receives ``{"waiting": reason}`` while it waits, ``{"waited": seconds}`` afterwards.
        sleep: Waits for a number of seconds.
    """

    def __init__(self, settings: Update, tell: Tell, sleep: Sleep = time.sleep) -> None:
        self._settings, self._tell, self._sleep = settings, tell, sleep
        self._load()
        self.work, self.totals = settings.work, Totals()
        self._last = time.monotonic()

    def run_idle(self) -> None:
        """Adapts tasks that lost rows which left the window, unless an update has just done so."""
        if time.monotonic() - self._last >= self._settings.expire_seconds:
            report = self._run_until_done(Updater.update_due)
            if report["tasks"]:
                self.totals.add(report)
                self._tell(report)

    def run(self, update: Callable[[Updater], dict[str, Any]]) -> dict[str, Any]:
        """Runs one update, and repeats it until it succeeds.

        It waits between one second and a minute before each repetition.

        Returns:
            The report of the update.

        Raises:
            LimamlError: An error that waiting does not solve: a work folder without rows, a changed
                schema.
        """
        report = self._run_until_done(update)
        self.totals.add(report)
        return report

    def _run_until_done(self, update: Callable[[Updater], dict[str, Any]]) -> dict[str, Any]:
        wait, began = _FIRST_WAIT_SECONDS, None
        while True:
            try:
                with exclusive(self._settings.work, UPDATE):
                    report = self._run_once(update)
                self._last = time.monotonic()
                if began is not None:
                    self._tell({"waited": round(self._last - began, 3)})
                return report
            except (StoreError, BusyError, OtherModelError) as error:
                began = time.monotonic() if began is None else began
                self.totals.waits += 1
                self._tell({"waiting": str(error), "seconds": wait})
                self._sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def _run_once(self, update: Callable[[Updater], dict[str, Any]]) -> dict[str, Any]:
        """Runs one update; follows a refresh with another export or other options.

        Another export may be in the place of the former one. Until a refresh has used it, the model
        in memory goes on to adapt for the generation that it made.
        """
        if _settings_of(self._settings.work) != self._plan:
            self._load()
        try:
            return update(self._updater)
        except VersionMismatchError:
            if not self._updater.is_replaced():
                raise
            self._load()
            return update(self._updater)

    def _load(self) -> None:
        plan = _settings_of(self._settings.work)
        self._updater = Updater(self._settings)
        self._updater.load()
        self._plan = plan


def _settings_of(work: Path) -> Plan:
    """The plan without the generation, which every refresh changes."""
    return dataclasses.replace(read_plan(work / "tasks"), generation="", replaced="")
