"""The embedding job: task records to meta embeddings, as Parquet.

As a program: ``python -m limaml_beam.generate_embeddings --help``.

Files of task records are read in packed batches of one padded width, adapted by the SavedModel
under tfx-bsl's RunInference and written as Parquet, column by column. Record bytes are never
decoded in Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from limaml_beam.generate_embeddings import artefacts, tables, two_definitions
from limaml_beam.generate_embeddings.counts import read_counts
from limaml_beam.generate_embeddings.embedding_statistics import describe
from limaml_beam.generate_embeddings.pipeline import (
    EmbeddingJob,
    GenerateEmbeddings,
    write_results,
)
from limaml_beam.generate_embeddings.report import (
    check_report,
    make_report,
    read_report,
    write_report,
)
from limaml_beam.io import files, outcome, runner_errors, staged_output
from limaml_beam.io.pipeline_options import new_pipeline, use_options
from tfrec_limaml.errors import LimamlError, VersionMismatchError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.store import EmbeddingStore
from tfrec_limaml.store.generation_rules import choose_identifier

#: Beside the embeddings of a launched job: its launch record.
LAUNCH_FILE = "launch.json"


def generate(
    job: EmbeddingJob, flags: Sequence[str] = (), overwrite: bool = False
) -> dict[str, Any]:
    """Runs the job and waits for it; `job.output` appears complete or not at all.

    Args:
        job: The settings and paths of the run.
        flags: Beam options (``--runner=...``).
        overwrite: Whether to replace an existing `job.output`, after the run has succeeded.

    Returns:
        The report: counts, model version, generation.

    Raises:
        LimamlError: The output exists, there are no records, schema, adapter and previous output
            do not belong together, or there are too many dead letters.
    """
    options = use_options([*flags, *job.worker_flags])
    _check_free(job, overwrite)
    began, digest = time.time(), artefacts.manifest_digest(job.adapter)
    staging = staged_output.staging_of(job.output)
    try:
        _run(job, staging, options, wait=True)
        return _finish(job, staging, digest, began)
    finally:
        staged_output.discard(staging)


def launch(job: EmbeddingJob, flags: Sequence[str] = (), overwrite: bool = False) -> dict[str, Any]:
    """As `generate`, but submits the job and returns at once.

    The job writes into ``<output>.launched``, which `finish` renames.

    Returns:
        ``launched``, that folder, and ``generation``.

    Raises:
        LimamlError: Another job was launched for this output; or as `generate`.
    """
    options = use_options([*flags, *job.worker_flags])
    _check_free(job, overwrite)
    staging = staged_output.launched_of(job.output)
    if not overwrite and files.exists(staging):
        raise LimamlError(
            f"{staging} exists: a launched job is running, or waits for --finish; --overwrite "
            "discards it"
        )
    staged_output.discard(staging)
    record = {
        "generation": job.generation,
        "manifest_digest": artefacts.manifest_digest(job.adapter),
        "began": time.time(),
        "with_variance": job.with_variance,
    }
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(staged_output.discard, staging)
        with runner_errors.readable(job.output):
            files.write_text(files.join(staging, LAUNCH_FILE), json.dumps(record) + "\n")
        _run(job, staging, options, wait=False)
        on_failure.pop_all()
    return {"launched": staging, "generation": job.generation}


def finish(job: EmbeddingJob, flags: Sequence[str] = (), overwrite: bool = False) -> dict[str, Any]:
    """Checks the output of a launched job and renames it to `job.output`; see `generate`.

    Raises:
        LimamlError: No job was launched for this output, or the job is not done; or as `generate`.
            The files of the job stay where they are.
    """
    use_options(flags)
    _check_free(job, overwrite)
    staging = staged_output.launched_of(job.output)
    text = files.read_text(files.join(staging, LAUNCH_FILE))
    if text is None:
        raise LimamlError(
            f"no job was launched for {job.output}: there is no {files.join(staging, LAUNCH_FILE)}"
        )
    record = json.loads(text)
    return _finish(
        dataclasses.replace(
            job,
            generation=record["generation"],
            with_variance=record.get("with_variance", False),
        ),
        staging,
        record["manifest_digest"],
        record["began"],
    )


def _check_free(job: EmbeddingJob, overwrite: bool) -> None:
    inputs = (job.tasks, job.adapter)
    staged_output.check_free(job.output, overwrite, staged_output.REPORT_FILE, inputs)


def _run(job: EmbeddingJob, folder: str, options: PipelineOptions, wait: bool) -> None:
    manifest = artefacts.read_manifest(job.adapter)
    manifest.check_schema(artefacts.read_schema(job.tasks))
    if manifest.joint_definitions:
        if not wait:
            manifest.refuse_two_definitions(
                "its job is several passes, which need a process that waits; leave out "
                "--launch-only"
            )
        outcome.stage("embed")
        return two_definitions.run(job, manifest, folder, options)
    if job.with_variance and not manifest.prior_variance:
        raise LimamlError(
            f"model version {manifest.model_version} has no posterior variances (it was adapted by "
            "gradient steps, or exported by an earlier version); leave out --with-variance"
        )
    paths = artefacts.task_files(job.tasks, manifest.task_definition)
    oldest = 0 if job.previous is None else _check_previous(job, job.previous, manifest)
    outcome.stage("embed")
    pipeline = new_pipeline(options)
    results = (
        pipeline
        | "Files" >> beam.Create(paths)
        | "GenerateEmbeddings" >> GenerateEmbeddings(job, manifest, oldest)
    )
    write_results(results, folder, job.with_variance)
    with runner_errors.readable(job.output):
        result = pipeline.run()
        if wait:
            result.wait_until_finish()


def _finish(job: EmbeddingJob, folder: str, digest: str, began: float) -> dict[str, Any]:
    manifest = artefacts.read_manifest(job.adapter)
    additions: dict[str, Any] = {}
    counts: dict[str, int] | None
    if manifest.joint_definitions:
        counts, additions = two_definitions.read_both(folder, manifest)
    else:
        counts = read_counts(folder)
    if counts is None:
        raise LimamlError(
            f"the job that writes {job.output} is not done: check it in the job list of its "
            f"engine, and finish it later"
        )
    if digest != artefacts.manifest_digest(job.adapter):
        raise VersionMismatchError(
            f"{job.adapter} has changed since the job began: run the job again"
        )
    report = make_report(job.generation, manifest, digest, counts, folder) | additions
    report["with_variance"] = job.with_variance
    outcome.note(**report)
    outcome.stage(outcome.CHECK)
    check_report(report, job.max_bad_fraction)
    outcome.stage("write")
    report |= {"statistics": describe(folder), "seconds": round(time.time() - began, 3)}
    with runner_errors.readable(job.output):
        write_report(folder, report)
        staged_output.publish(folder, job.output)
    return report


def _check_previous(job: EmbeddingJob, previous: str, manifest: Manifest) -> int:
    """Checks that rows of `previous` may be carried over.

    Returns:
        The time of the last interaction, in milliseconds, from which on tasks outside the window
        are kept.
    """
    report = read_report(previous)
    if report["manifest_digest"] != artefacts.manifest_digest(job.adapter):
        raise VersionMismatchError(
            f"{previous} was made by another export (model version {report['model_version']}), "
            f"not by {job.adapter} "
            f"(version {manifest.model_version}): leave out --previous for a full run"
        )
    if job.with_variance and not report.get("with_variance"):
        raise LimamlError(
            f"{previous} holds no variances to keep: leave out --previous for a full run"
        )
    batches = tables.read_batches(tables.embedding_files(previous), ["event_timestamp"])
    newest = max(
        (
            batch["event_timestamp"].cast(pa.int64()).to_numpy().max()
            for batch in batches
            if len(batch)
        ),
        default=0,
    )
    return int(newest) - round(job.max_age_days * DAY_MS) + (1 if job.max_age_days == 0 else 0)


def new_generation_name(store: EmbeddingStore | None, model_version: int) -> str:
    """The current time, adjusted to sort after the generations of the store.

    The generation is opened and dropped, so that a store that refuses writes does so before the
    work.
    """
    if store is None:
        return choose_identifier(None, [])
    name = choose_identifier(None, [g.identifier for g in store.generations(model_version)])
    store.new_generation(model_version, 1, name).abort()
    return name
