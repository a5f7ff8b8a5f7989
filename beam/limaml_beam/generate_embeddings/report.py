"""The report of a run of the embedding job, and the checks before its publication."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from limaml_beam.generate_embeddings import tables
from limaml_beam.io import files
from limaml_beam.io.staged_output import REPORT_FILE
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.wording import counted


def make_report(
    generation: str,
    manifest: Manifest,
    manifest_digest: str,
    counts: Mapping[str, int],
    folder: str,
) -> dict[str, Any]:
    """Counts of a run, its model and its generation; rows are counted in the files."""
    with ThreadPoolExecutor(16) as pool:  # a footer is one round trip to an object store
        rows = sum(pool.map(tables.row_count, tables.embedding_files(folder)))
    dead = {
        name.removeprefix("dead_"): count
        for name, count in sorted(counts.items())
        if name.startswith("dead_") and count
    }
    return {
        "generation": generation,
        "model_version": manifest.model_version,
        "embedding_dim": manifest.embedding_dim,
        "task_definition": manifest.task_definition,
        "manifest_digest": manifest_digest,
        "rows": rows,
        "tasks_read": counts.get("tasks_read", 0),
        "embedded": counts.get("tasks_embedded", 0),
        "carried": counts.get("tasks_carried", 0),
        "kept_outside_window": counts.get("tasks_kept_outside_window", 0),
        "aged_out": counts.get("tasks_aged_out", 0),
        "nested": sum(
            counts.get(f"nested_{name}", 0)
            for name in ("embedded", "carried", "kept_outside_window")
        ),
        "nested_unstorable_key": counts.get("nested_unstorable_key", 0),
        tables.DEAD_LETTERS: dead,
        "unreadable_files": counts.get("unreadable_files", 0),
    }


def check_report(report: Mapping[str, Any], max_bad_fraction: float) -> None:
    """Raises `LimamlError` if tasks were lost, or too many were refused."""
    dead = sum(report[tables.DEAD_LETTERS].values())
    read, used = report["tasks_read"], report["embedded"] + report["carried"]
    if report["unreadable_files"]:
        raise LimamlError(
            f"{counted(report['unreadable_files'], 'task-record file')} cannot be read to the "
            "end: prepare the tasks again"
        )
    if read != used + dead:
        raise LimamlError(
            f"{counted(read, 'task')} read, but {used} embedded or carried over and "
            f"{counted(dead, 'dead letter')}: a task has two records, or rows were lost; prepare "
            "the tasks again, then run the embedding job again"
        )
    expected = used + report["kept_outside_window"] + report["nested"]
    if report["rows"] != expected:
        raise LimamlError(
            f"{counted(report['rows'], 'row')} written, expected {expected}; run the embedding "
            "job again"
        )
    if dead > max_bad_fraction * read:
        raise LimamlError(
            f"{dead} of {read} tasks are dead letters {report['dead_letters']}, more than the "
            f"allowed share {max_bad_fraction} (--max-bad-fraction): nothing written or published"
        )
    if not report["rows"]:
        raise LimamlError("no task was embedded: the window is empty, or every record was refused")


def write_report(folder: str, report: Mapping[str, Any]) -> None:
    """Writes the report, which marks a folder as a finished output."""
    files.write_text(files.join(folder, REPORT_FILE), json.dumps(report, indent=2) + "\n")


def read_report(folder: str) -> dict[str, Any]:
    """The report of a finished run; raises `LimamlError` if there is none."""
    text = files.read_text(files.join(folder, REPORT_FILE))
    if text is None:
        raise LimamlError(
            f"{folder} holds no {REPORT_FILE}: not the finished output of `limaml embed`"
        )
    return dict(json.loads(text))
