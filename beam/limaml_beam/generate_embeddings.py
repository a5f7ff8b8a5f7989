"""Pipeline 2: task records to meta embeddings, as Parquet.

    python -m limaml_beam.generate_embeddings TASKS --export EXPORT --output EMBEDDINGS [--store lmdb:DIR] [Beam flags]

Files of task records are read in packed batches of one padded width, adapted by the SavedModel under tfx-bsl's RunInference and
written as Parquet, column by column. Record bytes are never decoded in Python.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa

from limaml_beam import embedding_tables as tables
from limaml_beam import task_output
from limaml_beam.adapter import adapt_with
from limaml_beam.checks import describe
from limaml_beam.embedding_transforms import KEYS, CarryOver, ToTables
from limaml_beam.options import DAY_MS, local_by_default
from limaml_beam.record_batches import DEAD_LETTERS, NAMESPACE, UNCHANGED, ReadBatches
from tfrec_limaml.errors import LimamlError, VersionMismatchError
from tfrec_limaml.manifest import EXTRA_DIRECTORY, MANIFEST_FILE, Manifest, latest_version
from tfrec_limaml.records import SCHEMA_FILE
from tfrec_limaml.schema import Schema
from tfrec_limaml.store import EmbeddingStore
from tfrec_limaml.store.common import choose_identifier

REPORT_FILE = "report.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingJob:
    """What one run of the job is told.

    Attributes:
        tasks: Folder that `limaml prepare` wrote.
        adapter: ``adapter/<version>``.
        output: Folder to write.
        generation: Name of this run; goes into every row and into the store.
        previous: Output of an earlier run of the same adapter: only tasks whose record changed since are adapted again.
        max_age_days: With `previous`: how long tasks without a record today are kept, counted from their last interaction to the
            newest one of the previous run; 0 drops them at once.
        batch_size: Tasks in one call of the adapter at most.
        max_bad_fraction: Share of dead letters above which the run fails.
        intra_op_threads: TensorFlow threads per worker; 0 leaves it to TensorFlow.
    """

    tasks: Path
    adapter: Path
    output: Path
    generation: str
    previous: Path | None = None
    max_age_days: float = 0.0
    batch_size: int = 512
    max_bad_fraction: float = 0.01
    intra_op_threads: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise LimamlError(f"batch_size must be at least 1, received {self.batch_size}")
        if not 0.0 <= self.max_bad_fraction <= 1.0:
            raise LimamlError(f"max_bad_fraction must lie between 0 and 1, received {self.max_bad_fraction}")
        if self.max_age_days < 0:
            raise LimamlError(f"max_age_days must not be negative, received {self.max_age_days}")


class GenerateEmbeddings(beam.PTransform):  # type: ignore[misc]
    """Paths of task-record files to tables: ``["embeddings"]`` and ``["dead_letters"]``.

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
        previous = [] if job.previous is None else [str(p) for p in tables.embedding_files(job.previous)]
        load = functools.partial(load_digests, previous) if job.previous is not None else None
        read = (
            paths
            | "OneFileEach" >> beam.Reshuffle()
            | "ReadBatches" >> beam.ParDo(ReadBatches(job.batch_size, load)).with_outputs(DEAD_LETTERS, UNCHANGED, main="batches")
        )
        rows = (
            read.batches
            | "Adapt" >> adapt_with(job.adapter, manifest.embedding_dim, job.intra_op_threads)
            | "ToTables" >> beam.ParDo(ToTables(manifest.model_version, job.generation)).with_outputs(DEAD_LETTERS, KEYS, main="rows")
        )
        embeddings = [rows.rows]
        if previous:
            embeddings.append(
                paths.pipeline
                | "PreviousFiles" >> beam.Create(previous)
                | "OnePreviousEach" >> beam.Reshuffle()
                | "CarryOver"
                >> beam.ParDo(CarryOver(job.generation, self._oldest), beam.pvalue.AsIter(read[UNCHANGED]), beam.pvalue.AsIter(rows[KEYS]))
            )
        return {
            "embeddings": embeddings | "AllRows" >> beam.Flatten(),
            "dead_letters": (read[DEAD_LETTERS], rows[DEAD_LETTERS]) | "AllDeadLetters" >> beam.Flatten(),
        }


def generate(job: EmbeddingJob, flags: Sequence[str] = (), overwrite: bool = False) -> dict[str, Any]:
    """Runs the job; `job.output` appears complete, with ``report.json``, or not at all.

    Args:
        job: The settings.
        flags: Beam options (``--runner=...``).
        overwrite: Replace an existing `job.output`, at the end.

    Returns:
        The report: counts, model version, generation.

    Raises:
        LimamlError: Nothing to read, artefacts that do not belong together, or too many dead letters.
    """
    task_output.check_free(str(job.output), overwrite)
    manifest = Manifest.read(job.adapter)
    manifest.check_schema(Schema.load(job.tasks / SCHEMA_FILE))
    files = sorted(str(p) for p in (job.tasks / manifest.task_definition).glob("recent-*.tfrecord*"))
    if not files:
        raise LimamlError(f"no recent-*.tfrecord.gz below {job.tasks / manifest.task_definition}; run `limaml prepare` first")
    oldest = 0 if job.previous is None else _check_previous(job, job.previous, manifest)
    partial = Path(task_output.aside_of(str(job.output)))
    try:
        partial.mkdir(parents=True)
        began = time.monotonic()
        counters = _run(job, manifest, files, oldest, partial, flags)
        report = _report(job, manifest, counters, partial)
        _check_report(report, job.max_bad_fraction)
        report |= {"statistics": describe(partial), "seconds": round(time.monotonic() - began, 3)}
        (partial / REPORT_FILE).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        task_output.publish(str(partial), str(job.output))
    except OSError as error:
        raise LimamlError(f"cannot write {job.output}: {error}") from error
    finally:
        task_output.discard(str(partial))
    return report


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a finished run; raises `LimamlError` where there is none."""
    path = folder / REPORT_FILE
    if not path.is_file():
        raise LimamlError(f"{folder} holds no {REPORT_FILE}: not the finished output of `limaml embed`")
    return dict(json.loads(path.read_text(encoding="utf-8")))


def load_digests(files: Sequence[str]) -> frozenset[bytes]:
    """Digests of all records behind the rows of some Parquet files."""
    found: set[bytes] = set()
    for batch in tables.read_batches([Path(f) for f in files], ["record_digest"]):
        found.update(batch["record_digest"].to_pylist())
    return frozenset(found)


def manifest_digest(adapter: Path) -> str:
    """Names one export exactly: a model exported anew under its old number gets another one."""
    from limaml_beam.record_batches import digest

    return digest((adapter / EXTRA_DIRECTORY / MANIFEST_FILE).read_bytes()).hex()


def _run(job: EmbeddingJob, manifest: Manifest, files: Sequence[str], oldest: int, folder: Path, flags: Sequence[str]) -> dict[str, int]:
    with beam.Pipeline(options=local_by_default(list(flags))) as pipeline:
        results = pipeline | "Files" >> beam.Create(files) | "GenerateEmbeddings" >> GenerateEmbeddings(job, manifest, oldest)
        _ = results["embeddings"] | "WriteEmbeddings" >> _write(folder / tables.EMBEDDINGS_PREFIX, tables.EMBEDDINGS_SCHEMA)
        _ = results["dead_letters"] | "WriteDeadLetters" >> _write(folder / tables.DEAD_LETTERS_FOLDER / "part", tables.DEAD_LETTERS_SCHEMA)
    found = pipeline.result.metrics().query(beam.metrics.MetricsFilter().with_namespace(NAMESPACE))["counters"]
    return {metric.key.metric.name: int(metric.result or 0) for metric in found}


def _write(prefix: Path, schema: pa.Schema) -> beam.PTransform:
    return beam.io.WriteToParquetBatched(str(prefix), schema, codec="snappy", file_name_suffix=".parquet", use_compliant_nested_type=True)


def _report(job: EmbeddingJob, manifest: Manifest, counters: Mapping[str, int], folder: Path) -> dict[str, Any]:
    rows = sum(tables.row_count(path) for path in tables.embedding_files(folder))
    dead = {name.removeprefix("dead_"): count for name, count in sorted(counters.items()) if name.startswith("dead_")}
    return {
        "generation": job.generation,
        "model_version": manifest.model_version,
        "embedding_dim": manifest.embedding_dim,
        "task_definition": manifest.task_definition,
        "manifest_digest": manifest_digest(job.adapter),
        "rows": rows,
        "tasks_read": counters.get("tasks_read", 0),
        "embedded": counters.get("tasks_embedded", 0),
        "carried": counters.get("tasks_carried", 0),
        "kept_outside_window": counters.get("tasks_kept_outside_window", 0),
        "aged_out": counters.get("tasks_aged_out", 0),
        "dead_letters": dead,
        "unreadable_files": counters.get("unreadable_files", 0),
    }


def _check_report(report: Mapping[str, Any], max_bad_fraction: float) -> None:
    dead = sum(report["dead_letters"].values())
    read, used = report["tasks_read"], report["embedded"] + report["carried"]
    if report["unreadable_files"]:
        raise LimamlError(f"{report['unreadable_files']} task-record files cannot be read to their end: prepare the tasks again")
    if read != used + dead:
        raise LimamlError(
            f"{read} tasks read, but {used} embedded or carried and {dead} dead letters: two records of one task, or rows lost"
        )
    if report["rows"] != used + report["kept_outside_window"]:
        raise LimamlError(f"{report['rows']} rows written, expected {used + report['kept_outside_window']}")
    if dead > max_bad_fraction * read:
        raise LimamlError(
            f"{dead} of {read} tasks are dead letters {report['dead_letters']}, more than max_bad_fraction "
            f"{max_bad_fraction}: nothing written or published"
        )
    if not report["rows"]:
        raise LimamlError("no task was embedded: the window is empty, or every record was refused")


def _check_previous(job: EmbeddingJob, previous: Path, manifest: Manifest) -> int:
    """Checks that rows may be carried over; returns the last interaction from which on tasks outside the window are kept."""
    report = read_report(previous)
    if report["manifest_digest"] != manifest_digest(job.adapter):
        raise VersionMismatchError(
            f"{previous} was made by another export (model version {report['model_version']}) than {job.adapter} "
            f"(version {manifest.model_version}): leave out --previous for a full run"
        )
    newest = max((batch["event_timestamp"].cast(pa.int64()).to_numpy().max() for batch in _timestamps(previous) if len(batch)), default=0)
    return int(newest) - round(job.max_age_days * DAY_MS) + (1 if job.max_age_days == 0 else 0)


def _timestamps(previous: Path) -> Any:
    return tables.read_batches(tables.embedding_files(previous), ["event_timestamp"])


def new_generation_name(store: EmbeddingStore | None, model_version: int) -> str:
    """The present time, made to sort after what the store holds."""
    return choose_identifier(None, [g.identifier for g in store.generations(model_version)] if store is not None else [])


def adapter_below(export: str | Path) -> Path:
    """The newest adapter of an export folder."""
    return latest_version(Path(export) / "adapter")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m limaml_beam.generate_embeddings``: as ``limaml embed``, with Beam's flags given directly."""
    from limaml_beam.embed_command import parse_with_beam_flags
    from tfrec_limaml.cli import main as limaml

    return limaml(["embed", *parse_with_beam_flags(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
