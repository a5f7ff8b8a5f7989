"""The daily job: build task records, adapt what changed, check, publish or refuse.

State lies in one work folder, which is local: its lock is one of this machine::

    <work>/refresh.lock              held while a refresh runs; a dead one's lock is free
    <work>/tasks/                    task records of the last run <work>/embeddings/<generation>/
    outputs: the generations that the store holds and, until the next run, a refused one
    <work>/refresh.json              what became of the last run, however it ended
    <work>/update.json, <work>/updates/    for and of `limaml update`

Every step writes under another name and renames, and the store's pointer moves last. A run that is
killed anywhere leaves the published generation as it was. The next run publishes first what had
passed its checks and could not be published; it clears away what is unfinished and goes on from
there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.build_tasks.prepare import prepare
from limaml_beam.generate_embeddings import two_definitions
from limaml_beam.generate_embeddings.artefacts import (
    manifest_digest,
    read_manifest,
    read_schema,
)
from limaml_beam.generate_embeddings.job import EmbeddingJob, generate, new_generation_name
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.generate_embeddings.publish import publish
from limaml_beam.generate_embeddings.report import read_report
from limaml_beam.io import outcome, staged_output
from limaml_beam.refresh import checks
from limaml_beam.refresh.options import Thresholds
from limaml_beam.update import job as updates
from limaml_beam.update.dead_letters import DEAD_LETTER_DAYS, remove_letters
from limaml_beam.update.plan import Plan, write_plan
from limaml_beam.update.reconcile import reconcile, settings_of
from tfrec_limaml import staging
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store import EmbeddingStore

RESULT_FILE = "refresh.json"
#: In an output that passed its checks: what its tasks were made of.
QUALITY_FILE = "quality.json"
_CHECKED_MARK, _PUBLISHED_MARK = "_CHECKED", "_PUBLISHED"


class LockedError(LimamlError):
    """Another run holds the work folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refresh:
    """Settings of one refresh.

    Attributes:
        work: Local folder for the state, one per model and store.
        adapter: ``adapter/<version>`` to use, local or on any Beam filesystem.
        store: Where to publish.
        prepare: What task records are made of. `tasks`, `recent_only` and `history_prior` come from
            the adapter's manifest.
        embed: How the embedding job works.
        limits: Thresholds of the checks.
        full: Adapt every task again, changed or not: as always for models of two definitions.
        keep_rows: Keep each task's rows beside its record, for `limaml update`.
        dead_letter_days: Dead letters of updates that are older are removed.
        flags: Beam options.
    """

    work: Path
    adapter: str
    store: EmbeddingStore
    prepare: PrepareOptions
    embed: EmbedOptions = dataclasses.field(default_factory=EmbedOptions)
    limits: Thresholds = dataclasses.field(default_factory=Thresholds)
    full: bool = False
    keep_rows: bool = False
    dead_letter_days: float = DEAD_LETTER_DAYS
    flags: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.dead_letter_days >= 0:
            raise LimamlError(
                f"dead_letter_days must not be negative, received {self.dead_letter_days}"
            )


def refresh(settings: Refresh) -> dict[str, Any]:
    """Runs one refresh, within a `session`.

    Returns:
        The embedding job's report with ``checks`` and ``published``.

    Raises:
        LimamlError: A step failed, or a check refused the new
            generation. What was published stays.
    """
    work = settings.work
    outputs = work / "embeddings"
    outcome.note(published=None)
    two_definitions.check_options(settings.embed, read_manifest(settings.adapter))
    _publish_pending(settings, outputs)
    reference = _published(outputs, settings.store)
    _clear(work, reference, settings.store)
    outcome.stage("prepare")
    options = prepare_options(settings.prepare, read_manifest(settings.adapter)).replace(
        erased=settings.store.erased(), keep_rows=settings.keep_rows
    )
    flags = [*settings.flags, *settings.embed.worker_flags]
    card = prepare(options, str(work / "tasks"), flags, overwrite=True)
    write_plan(work, Plan(settings.adapter, options))
    quality = card.get("quality", {})
    outcome.note(rows_prepared=card.get("rows", {}).get("used"), quality=quality)
    measured = _check_input(settings, outputs, reference, quality)
    outcome.stage("embed")
    report, output = _generate(settings, outputs, reference)
    outcome.note(**report)
    outcome.stage(outcome.CHECK)
    previous = None if reference is None else str(outputs / reference["generation"])
    measured += checks.check_run(str(output), report, previous, reference, settings.limits)
    _require(measured)
    staging.write_text(output / QUALITY_FILE, json.dumps(quality, indent=1) + "\n")
    (output / _CHECKED_MARK).touch()
    outcome.stage("publish")
    published = _publish(output, settings)
    outcome.note(published=published)
    result = {**report, "checks": _described(measured), "published": published}
    remove_letters(work, settings.dead_letter_days)
    if (work / "updates" / "rows").is_dir():
        outcome.stage("reconcile")
        result["updates"] = _reconcile(settings, output, card)
        outcome.note(updates=result["updates"])
    return result


def _reconcile(settings: Refresh, output: Path, card: dict[str, Any]) -> dict[str, Any]:
    """What `limaml update` made since the last refresh, beside this one's output."""
    tasks = settings.work / "tasks"
    with updates.exclusive(settings.work, wait=True):
        return reconcile(settings.work, str(output), read_schema(str(tasks)), settings_of(card))


def prepare_options(given: PrepareOptions, manifest: Manifest) -> PrepareOptions:
    """`given`, with what the model of `manifest` needs: recent records of its task definitions, and
    history rates as in its training.
    """
    return given.replace(
        tasks=(manifest.task_definition, *manifest.joint_definitions),
        recent_only=True,
        history_prior=manifest.training_label_mean,
    )


@contextlib.contextmanager
def session(work: Path, reports: Sequence[str] = (), metrics: str | None = None) -> Iterator[None]:
    """Holds the work folder for one run, and writes what became of it to ``refresh.json``, to
    `reports` and to `metrics`, however it ends.

    A run that does not get the folder leaves ``refresh.json`` alone: that is of runs that had it.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(exclusive(work))
        except LimamlError as error:
            with outcome.reported("refresh", reports, metrics):
                if isinstance(error, LockedError):
                    outcome.stage(outcome.LOCK)
                raise
        results = [str(work / RESULT_FILE), *reports]
        held.enter_context(outcome.reported("refresh", results, metrics))
        yield


def _publish(output: Path, settings: Refresh) -> str:
    keep = settings.embed.keep_generations
    identifier = publish(str(output), settings.store, keep=keep).identifier
    (output / _PUBLISHED_MARK).touch()
    return identifier


def _publish_pending(settings: Refresh, outputs: Path) -> None:
    """Publishes what passed its checks in an earlier run that could not publish it, so that today's
    run goes on from there instead of adapting everything again.
    """
    known = {generation.identifier for generation in settings.store.generations()}
    pending = [
        folder
        for folder in sorted(outputs.glob("*"))
        if (folder / _CHECKED_MARK).exists()
        and not (folder / _PUBLISHED_MARK).exists()
        and folder.name > max(known, default="")
    ]
    for folder in pending[-1:]:
        if read_report(str(folder))["manifest_digest"] == manifest_digest(settings.adapter):
            outcome.stage("publish_pending")
            outcome.note(published_pending=_publish(folder, settings))


def _check_input(
    settings: Refresh, outputs: Path, reference: dict[str, Any] | None, quality: dict[str, Any]
) -> list[checks.Check]:
    trained = read_manifest(settings.adapter).training_quality
    file = outputs / ("" if reference is None else reference["generation"]) / QUALITY_FILE
    earlier = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    outcome.stage(outcome.CHECK)
    measured = checks.check_input(quality, trained, earlier, settings.limits)
    _require(measured)
    return measured


def _require(measured: list[checks.Check]) -> None:
    outcome.note(checks=_described(measured))
    checks.require(measured)


def _described(measured: list[checks.Check]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(check) | {"passed": check.passed} for check in measured]


@contextlib.contextmanager
def exclusive(work: Path) -> Iterator[None]:
    """Holds the work folder's lock; the system frees it with the process, however that ends.

    Raises:
        LockedError: Another refresh holds it.
        LimamlError: The folder cannot be used.
    """
    try:
        work.mkdir(parents=True, exist_ok=True)
        file = open(work / "refresh.lock", "a+")  # noqa: SIM115 - held until the end of the block
    except OSError as error:
        raise LimamlError(f"cannot use the work folder {work}: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise LockedError(
                f"another refresh (process {file.read().strip() or 'unknown'}) is using {work}; "
                "wait for it"
            ) from error
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _generate(
    settings: Refresh, outputs: Path, reference: dict[str, Any] | None
) -> tuple[dict[str, Any], Path]:
    """Runs the embedding job, from the published run on where the same model made it."""
    name = new_generation_name(settings.store, read_manifest(settings.adapter).model_version)
    same_model = reference is not None and reference["manifest_digest"] == manifest_digest(
        settings.adapter
    )
    whole = settings.full or read_manifest(settings.adapter).joint_definitions
    previous = (
        str(outputs / reference["generation"])
        if reference is not None and same_model and not whole
        else None
    )
    job = EmbeddingJob.from_options(
        settings.embed,
        tasks=str(settings.work / "tasks"),
        adapter=settings.adapter,
        output=str(outputs / name),
        generation=name,
        previous=previous,
        keep_turns=settings.keep_rows,
    )
    return generate(job, settings.flags, overwrite=True), outputs / name


def _published(outputs: Path, store: EmbeddingStore) -> dict[str, Any] | None:
    """Report of the output that the store shows to its readers; of the newest ever published one
    where the store lost it.
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


def _clear(work: Path, published: dict[str, Any] | None, store: EmbeddingStore) -> None:
    """Removes what is neither published nor may be rolled back to: remains of killed runs, refused
    and outdated outputs.
    """
    names = {generation.identifier for generation in store.generations()}
    if published is not None:
        names.add(published["generation"])
    for folder in (work / "embeddings").glob("*"):
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)
    staged_output.remove_remains(work / "tasks")
