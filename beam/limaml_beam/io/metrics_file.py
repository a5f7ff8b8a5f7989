"""The report of a run as a file for the text-file collector of Prometheus' node exporter.

Each value is one time series with the label ``command``. The file is written under a temporary name
and renamed, so that the collector never reads an incomplete file.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, Metric, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from tfrec_limaml.errors import LimamlError

OUTCOMES = ("done", "refused", "failed", "interrupted")
SUFFIX = ".prom"
LAST_SUCCESS = "limaml_run_last_success_timestamp_seconds"
SUCCESS = "limaml_run_success"
LAST_LOCKED = "limaml_run_last_locked_timestamp_seconds"
#: Stage of a run that was refused because another one held its folder.
LOCK = "lock"
_TIMES = {
    LAST_SUCCESS: "When the last successful run ended.",
    LAST_LOCKED: "When a run was last refused because another one held its folder.",
}
#: Labels of the times from interaction to store.
QUANTILES = {"p50": "0.5", "p99": "0.99"}
#: Counts by feature, table or reason: their names here, and their label.
_LABELLED_COUNTS = {
    "skipped": ("rows_skipped", "reason"),
    "filled": ("values_filled", "feature"),
    "unreadable": ("values_unreadable", "feature"),
    "unknown_key": ("unknown_keys", "table"),
}
_TASKS = (
    *("tasks_read", "embedded", "carried", "kept_outside_window", "aged_out", "rows"),
    *("tasks", "upserted", "ignored_as_older"),
)


def check(path: str) -> None:
    """Raises `LimamlError` if the collector would not read a file."""
    if not path.endswith(SUFFIX) or "://" in path or not Path(path).absolute().parent.is_dir():
        raise LimamlError(
            f"--metrics-file must end in {SUFFIX} and lie in a folder of this machine that exists, "
            f"the one that node exporter's text-file collector reads; received {path}"
        )
    _check_writable(path)


def _check_writable(path: str) -> None:
    """Raises `LimamlError` if the folder takes no file, before the run has done its work."""
    folder = Path(path).absolute().parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".limaml-"):
            pass
    except OSError as error:
        raise LimamlError(f"cannot write the metrics {path}: {error}") from error


def write(path: str, report: Mapping[str, Any], ended: float) -> None:
    """Writes the metrics of a finished run.

    Args:
        path: The file; the times of the last success and of the last refused run are kept from the
            existing file. A run that was refused because another one held the folder changes only
            its own time, and nothing if the file has no metrics of other runs: they would say that
            the last run failed.
        report: As `outcome.reported` writes it.
        ended: When the run ended, seconds since the epoch.

    Raises:
        LimamlError: The file cannot be written.
    """
    command = report["command"]
    families = _families(path)
    times = {name: _value(families, command, name) for name in (LAST_SUCCESS, LAST_LOCKED)}
    metrics = _Metrics(command)
    if report["stage"] == LOCK:
        if _value(families, command, SUCCESS) is None:
            return
        times[LAST_LOCKED] = ended
        metrics.keep(families, without=times)
    else:
        if report["outcome"] == "done":
            times[LAST_SUCCESS] = ended
        _add_outcome(metrics, report, ended)
        _add_counts(metrics, report)
    for name, value in times.items():
        if value is not None:
            metrics.set(name.removeprefix("limaml_"), _TIMES[name], value)
    try:
        write_to_textfile(path, metrics.registry)
    except OSError as error:
        raise LimamlError(f"cannot write the metrics {path}: {error}") from error


def _add_outcome(metrics: _Metrics, report: Mapping[str, Any], ended: float) -> None:
    done = report["outcome"] == "done"
    metrics.set("run_success", "Whether the last run succeeded.", float(done))
    for name in OUTCOMES:
        metrics.set(
            "run_outcome", "1 for how the last run ended.", name == report["outcome"], outcome=name
        )
    metrics.set("run_stage", "1 for the stage that ran last.", 1, stage=report["stage"])
    metrics.set("run_end_timestamp_seconds", "When the last run ended.", ended)
    metrics.set("run_duration_seconds", "How long the last run took.", report["seconds"])


def _add_counts(metrics: _Metrics, report: Mapping[str, Any]) -> None:
    for key, number in (report.get("counts") or {}).items():
        kind, _, label = key.partition(":")
        if kind in _LABELLED_COUNTS:
            name, label_name = _LABELLED_COUNTS[kind]
            metrics.set(
                f"run_{name}",
                f"{name.replace('_', ' ')} by {label_name}.",
                number,
                **{label_name: label},
            )
        else:
            metrics.set("run_rows", "Rows by state.", number, state=kind.removeprefix("rows_"))
    for name in _TASKS:
        if isinstance(report.get(name), int):
            metrics.set("run_tasks", "Tasks by state.", report[name], state=name)
    letters = report.get("dead_letters")  # of an update their number; its `counts` have the reasons
    for reason, number in letters.items() if isinstance(letters, Mapping) else ():
        metrics.set("run_dead_letters", "Tasks that were refused.", number, reason=reason)
    for quantile, seconds in (report.get("lag_seconds") or {}).items():
        metrics.set(
            *("run_lag_seconds", "Seconds from interaction to store.", seconds),
            quantile=QUANTILES[quantile],
        )


class _Metrics:
    """Gauges of one command."""

    def __init__(self, command: str) -> None:
        self.registry = CollectorRegistry()
        self._command = command
        self._gauges: dict[str, Gauge] = {}

    def set(self, name: str, text: str, value: float, **labels: str) -> None:
        if name not in self._gauges:
            self._gauges[name] = Gauge(
                f"limaml_{name}", text, ["command", *labels], registry=self.registry
            )
        self._gauges[name].labels(command=self._command, **labels).set(value)

    def keep(self, families: Sequence[Metric], without: Container[str]) -> None:
        """Adds the metrics of an earlier file."""
        remaining = [family for family in families if family.name not in without]
        self.registry.register(_Families(remaining))


class _Families(Collector):
    """A collector of the metrics of an existing file."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


def _families(path: str) -> list[Metric]:
    """The metrics in a file; none if it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        return list(text_string_to_metric_families(Path(path).read_text(encoding="utf-8")))
    return []


def _value(families: Sequence[Metric], command: str, name: str) -> float | None:
    for family in families:
        for sample in family.samples:
            if sample.name == name and sample.labels.get("command") == command:
                return float(sample.value)
    return None
