"""Pipeline 2: task records to meta embeddings, as Parquet.

    python -m limaml_beam.generate_embeddings TASKS --export EXPORT --output EMBEDDINGS [--store
    lmdb:DIR] [Beam flags]

Files of task records are read in packed batches of one padded width, adapted by the SavedModel
under tfx-bsl's RunInference and written as Parquet, column by column. Record bytes are never
decoded in Python.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from limaml_beam.build_tasks.settings import DAY_MS
from limaml_beam.generate_embeddings import artefacts, tables
from limaml_beam.generate_embeddings.adapter import adapt_with
from limaml_beam.generate_embeddings.counts import COUNTS, WriteCounts, read_counts
from limaml_beam.generate_embeddings.embedding_statistics import describe
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.generate_embeddings.record_batches import UNCHANGED, ReadBatches
from limaml_beam.generate_embeddings.report import (
    check_report,
    make_report,
    read_report,
    write_report,
)
from limaml_beam.generate_embeddings.tables import DEAD_LETTERS
from limaml_beam.generate_embeddings.transforms import KEYS, CarryOver, ToTables
from limaml_beam.io import files, outcome, runner_errors, staged_output
from limaml_beam.io.pipeline_options import use_options
from tfrec_limaml.errors import LimamlError, VersionMismatchError
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.store import EmbeddingStore
from tfrec_limaml.store.common import choose_identifier

#: Beside the embeddings of a launched job: its launch record.
LAUNCH_FILE = "launch.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingJob(EmbedOptions):
    """One run of the job: its options, and what it reads and writes. Every path may be local or on
    any Beam filesystem.

    Attributes:
        tasks: Folder that `limaml prepare` wrote.
        adapter: ``adapter/<version>``.
        output: Folder to write.
        generation: Name of this run; goes into every row and into the store.
        previous: Output of an earlier run of the same adapter: only tasks whose record changed
            since are adapted again.
        with_variance: Write each offset's posterior variances too.
    """

    tasks: str
    adapter: str
    output: str
    generation: str
    previous: str | None = None
    with_variance: bool = False

    @classmethod
    def from_options(cls, options: EmbedOptions, **paths: Any) -> EmbeddingJob:
        """A run with these options; `paths` are the attributes above."""
        return cls(**dataclasses.asdict(options), **paths)


class GenerateEmbeddings(beam.PTransform):  # type: ignore[misc]
    """Paths of task-record files to ``["embeddings"]`` and ``["dead_letters"]`` (tables) and
    ``["counts"]`` (dictionaries).

    Args:
        job: The settings.
        manifest: The adapter's.
        oldest: Last interaction, in milliseconds, from which on rows outside the window are kept.
    """

    def __init__(self, job: EmbeddingJob, manifest: Manifest, oldest: int = 0) -> None:
        super().__init__()
        self._job = job
        self._manifest = manifest
        self._oldest = oldest

    def expand(self, paths: beam.PCollection) -> dict[str, beam.PCollection]:
        """Builds the graph."""
        job, manifest = self._job, self._manifest
        previous = [] if job.previous is None else tables.embedding_files(job.previous)
        load = functools.partial(tables.load_digests, previous) if previous else None
        read = (
            paths
            | "OneFileEach" >> beam.Reshuffle()
            | "ReadBatches"
            >> beam.ParDo(ReadBatches(job.batch_size, load)).with_outputs(
                DEAD_LETTERS, UNCHANGED, COUNTS, main="batches"
            )
        )
        rows = (
            read.batches
            | "Adapt"
            >> adapt_with(
                job.adapter, manifest.embedding_dim, job.threads_per_worker, job.with_variance
            )
            | "ToTables"
            >> beam.ParDo(ToTables(manifest, job.generation)).with_outputs(
                DEAD_LETTERS, KEYS, COUNTS, main="rows"
            )
        )
        embeddings, counts = [rows.rows], [read[COUNTS], rows[COUNTS]]
        if previous:
            carry = CarryOver(
                manifest.task_definition, job.generation, self._oldest, job.with_variance
            )
            carried = (
                paths.pipeline
                | "PreviousFiles" >> beam.Create(previous)
                | "OnePreviousEach" >> beam.Reshuffle()
                | "CarryOver"
                >> beam.ParDo(
                    carry, beam.pvalue.AsIter(read[UNCHANGED]), beam.pvalue.AsIter(rows[KEYS])
                ).with_outputs(COUNTS, main="rows")
            )
            embeddings.append(carried.rows)
            counts.append(carried[COUNTS])
        return {
            "embeddings": embeddings | "AllRows" >> beam.Flatten(),
            DEAD_LETTERS: (read[DEAD_LETTERS], rows[DEAD_LETTERS])
            | "AllDeadLetters" >> beam.Flatten(),
            "counts": counts | "AllCounts" >> beam.Flatten(),
        }


def generate(
    job: EmbeddingJob, flags: Sequence[str] = (), overwrite: bool = False
) -> dict[str, Any]:
    """Runs the job and waits for it; `job.output` appears complete, with ``report.json``, or not at
    all.

    Args:
        job: The settings.
        flags: Beam options (``--runner=...``).
        overwrite: Replace an existing `job.output`, at the end.

    Returns:
        The report: counts, model version, generation.

    Raises:
        LimamlError: Nothing to read, artefacts that do not belong together, or too many dead
            letters.
    """
    options = use_options([*flags, *job.worker_flags])
    staged_output.check_free(job.output, overwrite)
    began, digest = time.time(), artefacts.manifest_digest(job.adapter)
    staging = staged_output.staging_of(job.output)
    try:
        _run(job, staging, options, wait=True)
        return _finish(job, staging, digest, began)
    finally:
        staged_output.discard(staging)


def launch(job: EmbeddingJob, flags: Sequence[str] = (), overwrite: bool = False) -> dict[str, Any]:
    """Submits the job and returns; what it writes waits in ``<output>.launched`` for `finish`.

    As `generate`, otherwise.
    """
    options = use_options([*flags, *job.worker_flags])
    staged_output.check_free(job.output, overwrite)
    staging = staged_output.launched_of(job.output)
    if not overwrite and files.exists(staging):
        raise LimamlError(
            f"{staging} exists: a launched job that is running, or waits for --finish; --overwrite "
            "drops it"
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
    """Checks what a launched job has written and makes it `job.output`; see `generate`.

    Raises:
        LimamlError: No job was launched for this output, or it is not done; or as `generate`. What
            it wrote stays where it is.
    """
    use_options(flags)
    staged_output.check_free(job.output, overwrite)
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


def _run(job: EmbeddingJob, folder: str, options: PipelineOptions, wait: bool) -> None:
    manifest = artefacts.read_manifest(job.adapter)
    manifest.check_schema(artefacts.read_schema(job.tasks))
    if job.with_variance and not manifest.prior_variance:
        raise LimamlError(
            f"model version {manifest.model_version} has no posterior variances (it was adapted by "
            "gradient steps, or exported by an earlier version); leave out --with-variance"
        )
    paths = artefacts.task_files(job.tasks, manifest.task_definition)
    oldest = 0 if job.previous is None else _check_previous(job, job.previous, manifest)
    outcome.stage("embed")
    pipeline = beam.Pipeline(options=options)
    results = (
        pipeline
        | "Files" >> beam.Create(paths)
        | "GenerateEmbeddings" >> GenerateEmbeddings(job, manifest, oldest)
    )
    write_results(results, folder, job.with_variance)
    with runner_errors.readable(job.output):
        running = pipeline.run()
        if wait:
            running.wait_until_finish()


def write_results(
    results: dict[str, beam.PCollection], folder: str, with_variance: bool = False
) -> None:
    """Writes what `GenerateEmbeddings` returns: Parquet files, and the counts when all of them are
    complete.
    """
    rows = results["embeddings"] | "WriteEmbeddings" >> _write(
        folder, tables.EMBEDDINGS_PREFIX, tables.embeddings_schema(with_variance)
    )
    dead = results[DEAD_LETTERS] | "WriteDeadLetters" >> _write(
        folder, f"{DEAD_LETTERS}/part", tables.DEAD_LETTERS_SCHEMA
    )
    _ = results["counts"] | "WriteCounts" >> WriteCounts(folder, [rows, dead])


def _write(folder: str, prefix: str, schema: pa.Schema) -> beam.PTransform:
    return beam.io.WriteToParquetBatched(
        files.join(folder, prefix),
        schema,
        codec="snappy",
        file_name_suffix=".parquet",
        use_compliant_nested_type=True,
    )


def _finish(job: EmbeddingJob, folder: str, digest: str, began: float) -> dict[str, Any]:
    counts = read_counts(folder)
    if counts is None:
        raise LimamlError(
            f"the job that writes {job.output} is not done: look for it where its engine shows "
            "jobs, and finish it then"
        )
    if digest != artefacts.manifest_digest(job.adapter):
        raise VersionMismatchError(
            f"the job began with another export than {job.adapter} is now: run it again"
        )
    report = make_report(
        job.generation, artefacts.read_manifest(job.adapter), digest, counts, folder
    )
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
    """Checks that rows may be carried over; returns the last interaction from which on tasks
    outside the window are kept.
    """
    report = read_report(previous)
    if report["manifest_digest"] != artefacts.manifest_digest(job.adapter):
        raise VersionMismatchError(
            f"{previous} was made by another export (model version {report['model_version']}) "
            f"than {job.adapter} "
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
    """The present time, made to sort after what the store holds."""
    return choose_identifier(
        None, [g.identifier for g in store.generations(model_version)] if store is not None else []
    )
