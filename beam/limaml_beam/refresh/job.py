"""The daily job: build task records, adapt the changed tasks, check, publish or refuse.

The state is in one local work folder, because its lock works on one machine only:

    <work>/refresh.lock              held while a refresh runs, and free once its process ends
    <work>/tasks/                    task records of the last run that passed its checks
    <work>/tasks.next/               task records of a run until it has passed them, or was refused
    <work>/embeddings/<generation>/  outputs: of the generations that the store holds, and until
                                     the next run of one that was refused
    <work>/refresh.json              the result of the last run, success or failure
    <work>/tasks/update.json         settings for `limaml update`
    <work>/updates/                  state of `limaml update`

Every step writes under another name and renames, and the store's pointer moves last. A run that is
killed anywhere leaves the published generation as it was. The next run first publishes an output
that had passed its checks but was not published; it removes unfinished files and continues from
there.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from limaml_beam.build_tasks.options import PrepareOptions
from limaml_beam.build_tasks.prepare import prepare
from limaml_beam.erasure.work_tombstones import copy_tombstones, erased_digests
from limaml_beam.generate_embeddings import two_definitions
from limaml_beam.generate_embeddings.artefacts import (
    manifest_digest,
    read_manifest,
    read_schema,
)
from limaml_beam.generate_embeddings.job import generate, new_generation_name
from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
from limaml_beam.io import outcome
from limaml_beam.io.folder_lock import UPDATE, exclusive
from limaml_beam.refresh import checks, days, input_checks, unreadable_days
from limaml_beam.refresh.options import Refresh
from limaml_beam.refresh.outputs import (
    check_reference,
    check_work,
    clear,
    current_name,
    mark_checked,
    next_tasks,
    publish_output,
    publish_pending,
    published_report,
)
from limaml_beam.update.dead_letters import remove_letters
from limaml_beam.update.plan import Plan, write_plan
from limaml_beam.update.reconcile import reconcile, settings_of
from limaml_beam.update.state import state_folder
from tfrec_limaml import staging
from tfrec_limaml.manifest import Manifest

#: In an output that passed its checks: a description of its input.
QUALITY_FILE = "quality.json"


def refresh(settings: Refresh) -> dict[str, Any]:
    """Runs one refresh; call it within `limaml_beam.refresh.session.session`.

    Args:
        settings: The settings of the refresh.

    Returns:
        The embedding job's report with ``checks``, ``warnings`` and ``published``.

    Raises:
        LimamlError: A step failed, or a check refused the new generation. The published generation
            stays.
    """
    work = settings.work
    outputs = work / "embeddings"
    outcome.note(published=None)
    manifest = read_manifest(settings.adapter)
    two_definitions.check_options(settings.embed, manifest)
    reference, warnings = _begin(settings, outputs, manifest)
    outcome.stage("prepare")
    options = prepare_options(settings.prepare, manifest).replace(
        erased=erased_digests(work, settings.store), keep_rows=settings.keep_rows
    )
    flags = [*settings.flags, *settings.embed.worker_flags]
    card = prepare(options, str(next_tasks(work)), flags, overwrite=True)
    outcome.note(rows_prepared=card["rows"]["used"], quality=card["quality"])
    check_results = _check_input(settings, outputs, reference, card, warnings)
    outcome.stage("embed")
    source = _carried_from(settings, reference)
    report, output = _generate(settings, outputs, source)
    outcome.note(**report)
    outcome.stage(outcome.CHECK)
    previous = None if reference is None else str(outputs / reference["generation"])
    check_results += checks.check_run(str(output), report, previous, reference, settings.limits)
    _require(check_results, card)
    _write_quality(outputs, reference, output, card)
    replaced = current_name(settings.store, manifest.model_version)
    write_plan(next_tasks(work), Plan(settings.adapter, options, output.name, replaced))
    mark_checked(output, source)
    outcome.stage("publish")
    published = publish_output(output, settings)
    outcome.note(published=published)
    result = {**report, "checks": _as_dicts(check_results), "warnings": warnings}
    result["published"] = published
    remove_letters(work, settings.dead_letter_days)
    if state_folder(work).is_dir():
        outcome.stage("reconcile")
        result["updates"] = _reconcile(settings, output, card)
        outcome.note(updates=result["updates"])
    return result


def _begin(
    settings: Refresh, outputs: Path, manifest: Manifest
) -> tuple[dict[str, Any] | None, list[str]]:
    """Publishes a checked output that an earlier run left, and removes unfinished files.

    Returns:
        The report of the published run, or None, and warnings.
    """
    warnings = check_work(outputs, settings.store, manifest.model_version)
    warnings += copy_tombstones(settings.work, settings.store)
    warnings += publish_pending(settings, outputs)
    reference = published_report(outputs, settings.store)
    warnings += check_reference(outputs, reference, settings.store, manifest.model_version)
    outcome.note(warnings=warnings)
    clear(settings.work, reference, settings.store)
    return reference, warnings


def _reconcile(settings: Refresh, output: Path, card: dict[str, Any]) -> dict[str, Any]:
    """Compares the results of `limaml update` since the last refresh with this refresh's output."""
    tasks = settings.work / "tasks"
    with exclusive(settings.work, UPDATE, wait=True):
        return reconcile(settings.work, str(output), read_schema(str(tasks)), settings_of(card))


def prepare_options(options: PrepareOptions, manifest: Manifest) -> PrepareOptions:
    """`options` with the settings that a model needs.

    These are recent records of its task definitions, and history rates as in its training.
    """
    return options.replace(
        tasks=(manifest.task_definition, *manifest.joint_definitions),
        recent_only=True,
        history_prior=manifest.training_label_mean,
    )


def _check_input(
    settings: Refresh,
    outputs: Path,
    reference: dict[str, Any] | None,
    card: dict[str, Any],
    warnings: list[str],
) -> list[checks.Check]:
    """Checks the input; returns the checks, all passed, and adds to `warnings`."""
    training_quality = read_manifest(settings.adapter).training_quality
    published_quality = _published_quality(outputs, reference)
    empty = days.newly_empty(card["quality"], published_quality)
    if empty:
        warnings.append(f"no rows on {days.text(empty)}; were these days delivered?")
    schema = read_schema(str(next_tasks(settings.work)))
    warnings += unreadable_days.warnings(card["quality"], schema)
    outcome.note(warnings=warnings)
    outcome.stage(outcome.CHECK)
    prepared = settings_of(card)
    window = prepared.first, prepared.last
    check_results = input_checks.check_input(
        card["quality"], training_quality, published_quality, settings.limits, window
    )
    _require(check_results, card)
    return check_results


def _published_quality(outputs: Path, reference: dict[str, Any] | None) -> dict[str, Any]:
    """The description of the published run's input; empty if there is none."""
    file = outputs / ("" if reference is None else reference["generation"]) / QUALITY_FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _write_quality(
    outputs: Path, reference: dict[str, Any] | None, output: Path, card: dict[str, Any]
) -> None:
    """Describes the input, with its window and the least age of the newest row up to this run."""
    quality = {**card["quality"], input_checks.WINDOW_END: settings_of(card).last}
    if "newest_row_age_days" in quality:
        published = _published_quality(outputs, reference)
        ages = [quality["newest_row_age_days"]]
        ages += [input_checks.usual_age(published)] if "newest_row_age_days" in published else []
        quality = {**quality, "usual_age_days": min(ages)}
    staging.write_text(output / QUALITY_FILE, json.dumps(quality, indent=1) + "\n")


def _require(check_results: list[checks.Check], card: dict[str, Any]) -> None:
    outcome.note(checks=_as_dicts(check_results))
    checks.require(check_results, card["rows"]["skipped"])


def _as_dicts(check_results: list[checks.Check]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(check) | {"passed": check.passed} for check in check_results]


def _carried_from(settings: Refresh, reference: dict[str, Any] | None) -> str | None:
    """The generation whose unchanged vectors are carried over; None if all tasks are adapted."""
    if reference is None or settings.full or read_manifest(settings.adapter).joint_definitions:
        return None
    same_model = reference["manifest_digest"] == manifest_digest(settings.adapter)
    return str(reference["generation"]) if same_model else None


def _generate(settings: Refresh, outputs: Path, source: str | None) -> tuple[dict[str, Any], Path]:
    """Runs the embedding job, starting from a generation's output."""
    name = new_generation_name(settings.store, read_manifest(settings.adapter).model_version)
    job = EmbeddingJob.from_options(
        settings.embed,
        tasks=str(next_tasks(settings.work)),
        adapter=settings.adapter,
        output=str(outputs / name),
        generation=name,
        previous=None if source is None else str(outputs / source),
        keep_turns=settings.keep_rows,
    )
    return generate(job, settings.flags, overwrite=True), outputs / name
