"""The embedding outputs in a refresh's work folder: which one is published, and which can be
removed.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from limaml_beam.generate_embeddings.artefacts import (
    manifest_digest,
)
from limaml_beam.generate_embeddings.publish import publish
from limaml_beam.generate_embeddings.report import read_report
from limaml_beam.io import outcome, staged_output
from limaml_beam.refresh.options import Refresh
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store import EmbeddingStore

CHECKED_MARK, _PUBLISHED_MARK = "_CHECKED", "_PUBLISHED"


def publish_output(output: Path, settings: Refresh) -> str:
    """Publishes an output and marks it; returns its generation."""
    keep = settings.embed.keep_generations
    identifier = publish(str(output), settings.store, keep=keep).identifier
    (output / _PUBLISHED_MARK).touch()
    return identifier


def publish_pending(settings: Refresh, outputs: Path) -> None:
    """Publishes an output that passed its checks in an earlier run but was not published, so that
    the current run continues from it instead of adapting everything again.
    """
    identifiers = {generation.identifier for generation in settings.store.generations()}
    pending = [
        folder
        for folder in sorted(outputs.glob("*"))
        if (folder / CHECKED_MARK).exists()
        and not (folder / _PUBLISHED_MARK).exists()
        and folder.name > max(identifiers, default="")
    ]
    for folder in pending[-1:]:
        if read_report(str(folder))["manifest_digest"] == manifest_digest(settings.adapter):
            outcome.stage("publish_pending")
            outcome.note(published_pending=publish_output(folder, settings))


def published_report(outputs: Path, store: EmbeddingStore) -> dict[str, Any] | None:
    """Report of the published output of the store; of the newest output that was ever published if
    the store has lost its own.
    """
    reports = []
    for folder in sorted(outputs.glob("*"), reverse=True):
        with contextlib.suppress(LimamlError):
            reports.append(read_report(str(folder)))
    for report in reports:
        current = store.current(report["model_version"])
        if current is not None and current.identifier == report["generation"]:
            return report
    return next(
        (r for r in reports if (outputs / r["generation"] / _PUBLISHED_MARK).exists()), None
    )


def clear(work: Path, published: dict[str, Any] | None, store: EmbeddingStore) -> None:
    """Removes outputs that are neither published nor a target of a rollback: those of killed runs,
    refused and outdated ones.
    """
    names = {generation.identifier for generation in store.generations()}
    if published is not None:
        names.add(published["generation"])
    for folder in (work / "embeddings").glob("*"):
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)
    staged_output.remove_partial_outputs(work / "tasks")
