"""The embedding outputs in a refresh's work folder: published, pending and removable ones."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from limaml_beam.generate_embeddings.artefacts import manifest_digest
from limaml_beam.generate_embeddings.publish import publish
from limaml_beam.generate_embeddings.report import read_report
from limaml_beam.io import outcome, staged_output
from limaml_beam.refresh.options import Refresh
from limaml_beam.update.lock import exclusive
from limaml_beam.update.plan import read_plan
from tfrec_limaml import staging
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.store import EmbeddingStore

#: The first holds the generation whose vectors the output carries over, if there is one.
_CHECKED_MARK, _PUBLISHED_MARK = "_CHECKED", "_PUBLISHED"


def mark_checked(output: Path, source: str | None) -> None:
    """Marks an output that passed its checks; `source` is the generation that it carries over."""
    staging.write_text(output / _CHECKED_MARK, source or "")


def next_tasks(work: Path) -> Path:
    """Folder of a run's records until it is published.

    A run that is refused leaves the records of the published generation to `limaml update`.
    """
    return work / "tasks.next"


def current_name(store: EmbeddingStore, model_version: int) -> str:
    """Identifier of the current generation; empty if there is none."""
    current = store.current(model_version)
    return "" if current is None else current.identifier


def publish_output(output: Path, settings: Refresh) -> str:
    """Publishes an output and marks it; returns its generation.

    Its records replace those of the generation before, first: if the process is killed in between,
    `limaml update` adds newer rows to the generation before, until this one is published.

    Raises:
        LimamlError: It carries over vectors of a generation that was rolled back meanwhile.
    """
    condemned = _condemned_source(output, settings.store)
    if condemned:
        raise LimamlError(
            f"not published: generation {condemned}, whose vectors were carried over, was rolled "
            "back during this run; run limaml refresh again"
        )
    _take_over_tasks(settings.work, output.name)
    keep = settings.embed.keep_generations
    identifier = publish(str(output), settings.store, keep=keep).identifier
    (output / _PUBLISHED_MARK).touch()
    return identifier


def _take_over_tasks(work: Path, generation: str) -> None:
    """Makes the next records the current ones, if they are those of the generation."""
    following = next_tasks(work)
    if following.is_dir() and read_plan(following).generation == generation:
        with exclusive(work, wait=True):  # no update reads the records meanwhile
            staged_output.publish(str(following), str(work / "tasks"))


def is_published(work: Path, generation: str) -> bool:
    """Whether a generation was made current by a refresh, though perhaps not for good."""
    return (work / "embeddings" / generation / _PUBLISHED_MARK).exists()


def publish_pending(settings: Refresh, outputs: Path) -> None:
    """Publishes an output that passed its checks in an earlier run but was not published.

    The current run then continues from it instead of adapting everything again.
    """
    identifiers = {generation.identifier for generation in settings.store.generations()}
    pending = [
        folder
        for folder in sorted(outputs.glob("*"))
        if (folder / _CHECKED_MARK).exists()
        and not (folder / _PUBLISHED_MARK).exists()
        and folder.name > max(identifiers, default="")
        and not _condemned_source(folder, settings.store)
    ]
    for folder in pending[-1:]:
        if read_report(str(folder))["manifest_digest"] == manifest_digest(settings.adapter):
            outcome.stage("publish_pending")
            outcome.note(published_pending=publish_output(folder, settings))


def _condemned_source(output: Path, store: EmbeddingStore) -> str | None:
    """The generation whose vectors an output carries over, if it was condemned since."""
    source = (output / _CHECKED_MARK).read_text(encoding="utf-8")
    states = {generation.identifier: generation.state for generation in store.generations()}
    return source if states.get(source) == "condemned" else None


def published_report(outputs: Path, store: EmbeddingStore) -> dict[str, Any] | None:
    """Report of the store's published output.

    If the store has lost its generations: of the newest output that was ever published.
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
    """Removes outputs that are neither published nor a target of a rollback.

    These are outputs of killed runs, refused and outdated ones.
    """
    names = {generation.identifier for generation in store.generations()}
    if published is not None:
        names.add(published["generation"])
    for folder in (work / "embeddings").glob("*"):
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(next_tasks(work), ignore_errors=True)
    for tasks in (work / "tasks", next_tasks(work)):
        staged_output.remove_partial_outputs(tasks)
