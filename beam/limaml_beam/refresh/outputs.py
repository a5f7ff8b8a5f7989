"""The embedding outputs in a refresh's work folder: published, pending and removable ones."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.artefacts import manifest_digest
from limaml_beam.generate_embeddings.publish import publish
from limaml_beam.generate_embeddings.report import read_report
from limaml_beam.io import files, outcome, staged_output
from limaml_beam.io.folder_lock import UPDATE, exclusive
from limaml_beam.refresh.options import Refresh
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
    version = read_report(str(output))["model_version"]
    condemned = _condemned_source(output, settings.store, version)
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
        with exclusive(work, UPDATE, wait=True):  # no update reads the records meanwhile
            staged_output.publish(str(following), str(work / "tasks"))


def is_published(work: Path, generation: str) -> bool:
    """Whether a generation was made current by a refresh, though perhaps not for good."""
    return (work / "embeddings" / generation / _PUBLISHED_MARK).exists()


def publish_pending(settings: Refresh, outputs: Path) -> list[str]:
    """Publishes an output that passed its checks in an earlier run but was not published.

    The current run then continues from it instead of adapting everything again.

    Returns:
        Warnings, if the output is damaged: it is removed then.
    """
    for folder in sorted(outputs.glob("*"), reverse=True):
        if not (folder / _CHECKED_MARK).exists() or (folder / _PUBLISHED_MARK).exists():
            continue
        try:
            report = _whole_report(folder)
        except LimamlError as error:
            shutil.rmtree(folder, ignore_errors=True)
            return [f"an output that was not published yet is damaged and was removed: {error}"]
        if _is_pending(folder, settings.store, report["model_version"]):
            if report["manifest_digest"] == manifest_digest(settings.adapter):
                outcome.stage("publish_pending")
                outcome.note(published_pending=publish_output(folder, settings))
            break
    return []


def _is_pending(output: Path, store: EmbeddingStore, version: int) -> bool:
    """Whether an output is newer than the generations of its model version in the store."""
    identifiers = {generation.identifier for generation in store.generations(version)}
    return output.name > max(identifiers, default="") and not _condemned_source(
        output, store, version
    )


def _whole_report(output: Path) -> dict[str, Any]:
    """The report of an output whose files hold as many rows as it says; else `LimamlError`."""
    report, rows = read_report(str(output)), _rows(output)
    if rows != report["rows"]:
        raise LimamlError(f"{output} holds {rows} embeddings, its report says {report['rows']}")
    return report


def _rows(output: Path) -> int:
    """Rows of an output; raises `LimamlError` if a file cannot be opened."""
    return sum(map(tables.row_count, tables.embedding_files(str(output))))


def _condemned_source(output: Path, store: EmbeddingStore, version: int) -> str | None:
    """The generation whose vectors an output carries over, if it was condemned since."""
    source = (output / _CHECKED_MARK).read_text(encoding="utf-8")
    states = {g.identifier: g.state for g in store.generations(version)}
    return source if states.get(source) == "condemned" else None


def check_work(outputs: Path, store: EmbeddingStore, version: int) -> list[str]:
    """Compares the outputs of earlier runs with the model version and the store of this one.

    Args:
        outputs: The folder of the outputs, before anything is published or cleared.
        store: The store.
        version: The model version of this run.

    Returns:
        Warnings that the work folder is another model version's, or that the store has lost its
        generations or the newest one that was published from here.
    """
    versions = {}
    for folder in sorted(outputs.glob("*"), reverse=True):
        if (folder / _PUBLISHED_MARK).exists():
            with contextlib.suppress(LimamlError):
                versions[folder.name] = int(read_report(str(folder))["model_version"])
    warnings = []
    newest = next(iter(versions.values()), version)
    if newest != version:
        warnings.append(
            f"this work folder held model version {newest} until now; a work folder is for one "
            "model version and store: give each version that you refresh its own --work"
        )
    own = [name for name, of_output in versions.items() if of_output == version]
    generations = store.generations(version)
    if own and all(generation.state == "lost" for generation in generations):
        warnings.append(
            f"this work folder has published {own[0]}, and the store holds no generation of model "
            f"version {version}: if it is not a new store, it lost its data and the tombstones of "
            "erasures with them: repeat the erasures (`limaml erase`)"
        )
    elif own:
        warnings += _gone_back(
            own[0], [g.identifier for g in generations], current_name(store, version)
        )
    return warnings


def _gone_back(published: str, listed: Sequence[str], current: str) -> list[str]:
    """A warning if a store lists older generations, but not the newest one published here.

    A rollback with a `prune` after it leads to the same list, so the text names both causes.
    """
    if published in listed or published < min(listed):
        return []
    return [
        f"this work folder has published {published}, which the store does not list; it lists "
        f"older ones, and {current or 'none'} is current. If {published} was not removed on "
        "purpose (`limaml store prune` after a rollback), the store has gone back to an earlier "
        "state (a restored copy, a failover), without the erasures made since: repeat these "
        "(`limaml erase`, see docs/erasure.md)"
    ]


def check_reference(
    outputs: Path, reference: dict[str, Any] | None, store: EmbeddingStore, version: int
) -> list[str]:
    """Checks that a run can be compared with the published one.

    Args:
        outputs: The folder of the outputs.
        reference: The published run's report, from `published_report`.
        store: The store.
        version: The model version of this run.

    Returns:
        A warning, if the current generation's output is missing or has no report.

    Raises:
        LimamlError: The published output is damaged.
    """
    if reference is not None:
        output = outputs / reference["generation"]
        try:
            _rows(output)
        except LimamlError as error:
            raise LimamlError(
                f"the published output is damaged: {error}; remove {output} and repeat the "
                "command: it adapts all tasks, and compares with nothing"
            ) from error
    current = current_name(store, version)
    if current and not files.exists(str(outputs / current / staged_output.REPORT_FILE)):
        return [
            f"nothing was compared with the current generation {current}, and all tasks were "
            f"adapted: {outputs / current} has no report"
        ]
    return []


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

    These are outputs of killed runs, refused and outdated ones. The newest published one stays
    until the next is published, also if the store lists it no longer: `check_work` warns until
    then.
    """
    names = {generation.identifier for generation in store.generations()}
    if published is not None:
        names.add(published["generation"])
    outputs = list((work / "embeddings").glob("*"))
    names.add(max((o.name for o in outputs if (o / _PUBLISHED_MARK).exists()), default=""))
    for folder in outputs:
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(next_tasks(work), ignore_errors=True)
    for tasks in (work / "tasks", next_tasks(work)):
        staged_output.remove_partial_outputs(tasks)
