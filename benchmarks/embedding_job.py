"""Compares the embedding job with direct calls of the adapter, at the core's reference sizes.

    python benchmarks/embedding_job.py --tasks 20000 --json

The adapter is exported by the toolkit from a reference model (64 meta and 128 other features, meta
MLP 128-32, global MLP 256-128-1, k = 3). Both sides adapt the same records in the same batches; the
direct loop has them in memory and throws its results away, the job reads gzipped files and writes
Parquet. They alternate, and rates are medians; the time of a job on eight tasks counts as start-up
and is subtracted. Shares are given in wall-clock and in processor time: the latter depends less on
other work.

One and two worker processes, single-threaded, adapt the same files several times, so that the work
is long compared with their start-up, which is subtracted as well. `--no-workers` leaves this out.

Keys: `tasks`, `adapter_tasks_per_s`, `job_tasks_per_s`, `job_share`, `job_share_of_processor_time`,
`start_up_s`; of the worker processes `one_single_threaded_worker_tasks_per_s`,
`two_single_threaded_workers_tasks_per_s` and `two_workers_speedup`.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from command_line import parser_of, positive, print_measured

from limaml_beam.commands.beam_flags import quiet_beam
from limaml_beam.generate_embeddings import record_batches
from limaml_beam.generate_embeddings.adapter import load_packed
from limaml_beam.generate_embeddings.job import generate
from limaml_beam.generate_embeddings.pipeline import EmbeddingJob
from limaml_beam.io.pipeline_options import use_options
from limaml_beam.io.tfrecords import frame_record
from tfrec_limaml import export_for_serving
from tfrec_limaml.manifest import Manifest
from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.tasks.folder import RECENT, SCHEMA_FILE, shard_name
from tfrec_limaml.tasks.record_format import LABEL, TIMESTAMP
from tfrec_limaml.tasks.statistics import Statistics
from tfrec_limaml.tasks.task_encoder import TaskEncoder
from tfrec_limaml.training.model_options import ModelOptions
from tfrec_limaml.training.recipes import build_model

SCHEMA = Schema(
    name="reference",
    label=Label(name="click"),
    timestamp="time",
    tasks={"user": ("user_id",)},
    features=(
        Feature(name="m", role="meta", width=64, normalise="none"),
        Feature(name="o", width=128, normalise="none"),
    ),
)
FILES = 4
MODEL = ModelOptions.paper().replace(meta_units=(128,), global_units=(256, 128), inner_steps=3)


def make_export(folder: Path) -> str:
    """Exports the reference model; returns the adapter's directory."""
    from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

    encoder = FeatureEncoder(
        SCHEMA, Statistics(rows=1, label_mean=0.5, window={"start": 0, "end": 1}, features={})
    )
    model = build_model("limaml", encoder, MODEL)
    model.build(encoder.output_shapes)
    manifest = export_for_serving(model, folder)
    return f"{folder}/adapter/{manifest.model_version}"


def make_records(tasks: int) -> list[bytes]:
    """Tasks of 1 to 24 samples."""
    random = np.random.default_rng(7)
    counts = random.integers(1, 25, tasks)
    ends = np.cumsum(counts)
    rows = int(ends[-1])
    columns = {
        "m": random.standard_normal((rows, 64), np.float32),
        "o": random.standard_normal((rows, 128), np.float32),
        LABEL: (random.random(rows) < 0.4).astype(np.float32),
        TIMESTAMP: np.arange(rows) + 1_650_000_000_000,
    }
    encoder = TaskEncoder(SCHEMA, columns)
    return [
        encoder.encode(f"member-{n:08d}", end - count, end)
        for n, (end, count) in enumerate(zip(ends.tolist(), counts.tolist(), strict=True))
    ]


def write_tasks(folder: Path, records: Sequence[bytes]) -> str:
    """Task records in the layout of `limaml prepare`."""
    (folder / "user").mkdir(parents=True)
    SCHEMA.save(folder / SCHEMA_FILE)
    for n in range(FILES):
        with gzip.open(
            folder / "user" / shard_name(RECENT, n, FILES), "wb", compresslevel=3
        ) as file:
            file.writelines(map(frame_record, records[n::FILES]))
    return str(folder)


@dataclasses.dataclass(frozen=True)
class Times:
    """Wall-clock seconds, and seconds of this process's processor time."""

    wall: float
    processor: float

    def __sub__(self, other: Times) -> Times:
        return Times(self.wall - other.wall, self.processor - other.processor)


def timed(function: Callable[[], object]) -> Times:
    began = Times(time.perf_counter(), time.process_time())
    function()
    return Times(time.perf_counter(), time.process_time()) - began


def median(times: Sequence[Times]) -> Times:
    return Times(
        statistics.median(t.wall for t in times), statistics.median(t.processor for t in times)
    )


def copies_of(tasks: str, folder: Path, copies: int) -> str:
    """The same files several times, by links."""
    (folder / "user").mkdir(parents=True)
    SCHEMA.save(folder / SCHEMA_FILE)
    for file in Path(tasks, "user").iterdir():
        for copy in range(copies):
            os.link(file, folder / "user" / file.name.replace("recent-", f"recent-{copy}-"))
    return str(folder)


def run(job: EmbeddingJob, workers: int = 0) -> Times:
    """One run of the job: in this process, or in worker processes of one thread each."""
    flags = (
        [f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"]
        if workers
        else []
    )
    job = dataclasses.replace(job, intra_op_threads=1 if workers else 0)
    return timed(lambda: generate(job, flags, overwrite=True))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    tasks = arguments.tasks
    records = make_records(tasks)
    adapter = make_export(folder / "export")
    job = EmbeddingJob(
        tasks=write_tasks(folder / "tasks", records),
        adapter=adapter,
        output=f"{folder}/out",
        generation="benchmark",
    )
    tiny = dataclasses.replace(job, tasks=write_tasks(folder / "tiny", records[:8]))
    result = {"tasks": tasks, **compare_with_loop(job, tiny, records, arguments)}
    if not arguments.no_workers:
        result |= compare_workers(job, tiny, arguments, folder)
    return result


def compare_with_loop(
    job: EmbeddingJob, tiny: EmbeddingJob, records: Sequence[bytes], arguments: argparse.Namespace
) -> dict[str, float]:
    # The same batches as in the job, file by file.
    batches = [
        batch
        for n in range(FILES)
        for batch in record_batches.batches_by_width(records[n::FILES], job.batch_size)
    ]
    packed = load_packed(
        job.adapter,
        ["serve"],
        embedding_dim=Manifest.read(job.adapter).embedding_dim,
        intra_op_threads=0,
    )

    def direct() -> None:
        for batch in batches:
            packed.adapt(batch)

    direct()
    turns = [(timed(direct), run(tiny), run(job)) for _ in range(arguments.repeat)]
    loop, start, whole = (median(times) for times in zip(*turns, strict=True))
    work = whole - start
    check_work(work, start, arguments.rough)
    return {
        "adapter_tasks_per_s": len(records) / loop.wall,
        "job_tasks_per_s": len(records) / work.wall,
        "job_share": loop.wall / work.wall,
        "job_share_of_processor_time": loop.processor / work.processor,
        "start_up_s": start.wall,
    }


def check_work(work: Times, start: Times, rough: bool) -> None:
    """Refuses a measurement whose start-up takes longer than the work, unless it may be `rough`.

    The difference would be noise.
    """
    if work.wall < start.wall / 2 and not rough:
        raise SystemExit(
            f"start-up takes {start.wall:.1f} s, the work {work.wall:.1f} s: pass more --tasks "
            "(or --copies)"
        )


def compare_workers(
    job: EmbeddingJob, tiny: EmbeddingJob, arguments: argparse.Namespace, folder: Path
) -> dict[str, float]:
    copies = arguments.copies
    many = dataclasses.replace(job, tasks=copies_of(job.tasks, folder / "many", copies))
    rates = []
    for workers in (1, 2):
        start = run(tiny, workers)
        work = run(many, workers) - start
        check_work(work, start, arguments.rough)
        rates.append(arguments.tasks * copies / work.wall)
    single, double = rates
    return {
        "one_single_threaded_worker_tasks_per_s": single,
        "two_single_threaded_workers_tasks_per_s": double,
        "two_workers_speedup": double / single,
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tasks", type=positive, default=20_000)
    parser.add_argument(
        "--repeat", type=positive, default=3, help="turns of loop and job (default 3)"
    )
    parser.add_argument(
        "--copies",
        type=positive,
        default=6,
        help="times that the worker processes adapt the tasks (default 6)",
    )
    parser.add_argument("--no-workers", action="store_true", help="without worker processes")
    parser.add_argument(
        "--rough", action="store_true", help="report figures that are mostly noise, too"
    )
    parser.add_argument("--json", action="store_true")
    quiet_beam(use_options([]))
    print_measured(parser, measure)


if __name__ == "__main__":
    main()
