"""The Beam graph of the embedding job: files of task records to Parquet files of embeddings."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import apache_beam as beam
import pyarrow as pa

from limaml_beam.generate_embeddings import tables
from limaml_beam.generate_embeddings.adapter import adapt_with
from limaml_beam.generate_embeddings.counts import COUNTS, WriteCounts
from limaml_beam.generate_embeddings.options import EmbedOptions
from limaml_beam.generate_embeddings.other_side import TurnInputs
from limaml_beam.generate_embeddings.record_batches import UNCHANGED, ReadBatches
from limaml_beam.generate_embeddings.tables import DEAD_LETTERS
from limaml_beam.generate_embeddings.transforms import KEYS, CarryOver, ToTables
from limaml_beam.io import files
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.paths import path_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingJob(EmbedOptions):
    """One run of the job: its options, and the paths that it reads and writes.

    Paths may be local or on any Beam filesystem; strings or `pathlib.Path`s.

    Examples:
        >>> job = EmbeddingJob(tasks="tasks", adapter=newest_adapter("export"), output="embeddings",
        ...     generation="20221122T035400Z", workers=4)                 # doctest: +SKIP
        >>> report = generate(job)                                        # doctest: +SKIP

    Attributes:
        tasks: Folder that `limaml prepare` wrote.
        adapter: The exported adapter, ``EXPORT/adapter/<version>``.
        output: Folder to write.
        generation: Name of this run, in every row and in the store; see `new_generation_name`.
        previous: Output of an earlier run of the same adapter; None for a full run. Only tasks
            whose records have changed since that run are adapted again.
        with_variance: Whether to write the posterior variances of each offset too.
        keep_turns: For a model of two definitions: whether to keep the offsets of the earlier
            turns, which `limaml update` needs.

    Raises:
        LimamlError: A path is not a path, or a setting is out of range.
    """

    tasks: str
    adapter: str
    output: str
    generation: str
    previous: str | None = None
    with_variance: bool = False
    keep_turns: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tasks", "adapter", "output", "previous"):
            path = getattr(self, name)
            if path is not None or name != "previous":
                object.__setattr__(self, name, path_text(path, name))

    @classmethod
    def from_options(cls, options: EmbedOptions, **paths: Any) -> EmbeddingJob:
        """A run with these options; `paths` are the attributes above."""
        return cls(**dataclasses.asdict(options), **paths)


class GenerateEmbeddings(beam.PTransform):  # type: ignore[misc]
    """Computes the embeddings of all tasks from the paths of task record files.

    Returns a dictionary of collections: ``embeddings`` and ``dead_letters`` (Arrow tables), and
    ``counts`` (dictionaries).

    Args:
        job: The settings and paths of the run.
        manifest: The manifest of the adapter.
        turn_inputs: For a model of two definitions: the side of the tasks, and the known offsets of
            the other side.
        oldest: Rows of tasks outside the window are kept if their last interaction is at or after
            this time, in milliseconds.
    """

    def __init__(
        self,
        job: EmbeddingJob,
        manifest: Manifest,
        oldest: int = 0,
        turn_inputs: TurnInputs | None = None,
    ) -> None:
        super().__init__()
        self._job = job
        self._turn_inputs = turn_inputs
        side = 0 if turn_inputs is None else turn_inputs.side
        self._definition = (manifest.task_definition, *manifest.joint_definitions)[side]
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
                job.adapter,
                manifest.embedding_dim,
                job.threads_per_worker,
                job.with_variance,
                self._turn_inputs,
            )
            | "ToTables"
            >> beam.ParDo(ToTables(manifest, job.generation, self._definition)).with_outputs(
                DEAD_LETTERS, KEYS, COUNTS, main="rows"
            )
        )
        embeddings, counts = [rows.rows], [read[COUNTS], rows[COUNTS]]
        if previous:
            carried = self._carried(paths.pipeline, previous, read[UNCHANGED], rows[KEYS])
            embeddings.append(carried.rows)
            counts.append(carried[COUNTS])
        return {
            "embeddings": embeddings | "AllRows" >> beam.Flatten(),
            DEAD_LETTERS: (read[DEAD_LETTERS], rows[DEAD_LETTERS])
            | "AllDeadLetters" >> beam.Flatten(),
            "counts": counts | "AllCounts" >> beam.Flatten(),
        }

    def _carried(
        self,
        pipeline: beam.Pipeline,
        previous: list[str],
        unchanged: beam.PCollection,
        adapted: beam.PCollection,
    ) -> Any:
        """Rows of the previous run's files for tasks that are unchanged, and their counts."""
        job = self._job
        carry = CarryOver(
            self._manifest.task_definition, job.generation, self._oldest, job.with_variance
        )
        return (
            pipeline
            | "PreviousFiles" >> beam.Create(previous)
            | "OnePreviousEach" >> beam.Reshuffle()
            | "CarryOver"
            >> beam.ParDo(
                carry, beam.pvalue.AsIter(unchanged), beam.pvalue.AsIter(adapted)
            ).with_outputs(COUNTS, main="rows")
        )


def write_results(
    results: dict[str, beam.PCollection],
    folder: str,
    with_variance: bool = False,
    suffix: str = "",
    counts_folder: str | None = None,
) -> None:
    """Writes the results of `GenerateEmbeddings`: Parquet files, then the counts.

    The counts go to `counts_folder`, by default the same folder.
    """
    rows = results["embeddings"] | "WriteEmbeddings" >> _write(
        folder, f"{tables.EMBEDDINGS_PREFIX}{suffix}", tables.embeddings_schema(with_variance)
    )
    dead = results[DEAD_LETTERS] | "WriteDeadLetters" >> _write(
        folder, f"{DEAD_LETTERS}/part{suffix}", tables.DEAD_LETTERS_SCHEMA
    )
    _ = results["counts"] | "WriteCounts" >> WriteCounts(counts_folder or folder, [rows, dead])


def _write(folder: str, prefix: str, schema: pa.Schema) -> beam.PTransform:
    return beam.io.WriteToParquetBatched(
        files.join(folder, prefix),
        schema,
        codec="snappy",
        file_name_suffix=".parquet",
        use_compliant_nested_type=True,
    )
