"""Counts of the outcomes of all tasks, kept twice: as Beam counters, which show progress while a
job runs, and as data, which is exact and lets another process finish a launched job.
"""

from __future__ import annotations

import json

import apache_beam as beam
from apache_beam.metrics import Metrics

from limaml_beam.io import files
from limaml_beam.rows.columnar import sum_counts

NAMESPACE = "limaml_embeddings"
#: Output of the transforms that count.
COUNTS = "counts"
COUNTS_FILE = "counts.json"


def tagged_counts(**numbers: int) -> beam.pvalue.TaggedOutput:
    """Counts in the running job; the result is to be yielded."""
    for name, number in numbers.items():
        Metrics.counter(NAMESPACE, name).inc(number)
    return beam.pvalue.TaggedOutput(COUNTS, numbers)


class WriteCounts(beam.PTransform):  # type: ignore[misc]
    """Writes the counts to one file, last of all: if it exists, the job has finished.

    Args:
        folder: Folder to write to.
        after: Names of written files; all of them are complete before.
    """

    def __init__(self, folder: str, after: list[beam.PCollection]) -> None:
        super().__init__()
        self._path = files.join(folder, COUNTS_FILE)
        self._after = after

    def expand(self, counts: beam.PCollection) -> beam.PCollection:
        """Sums the counts and writes them."""
        written = [beam.pvalue.AsIter(names) for names in self._after]
        return (
            counts
            | "Add" >> beam.CombineGlobally(sum_counts)
            | "Write" >> beam.Map(_write, self._path, *written)
        )


def read_counts(folder: str) -> dict[str, int] | None:
    """Counts of a finished job; None if it has not finished."""
    text = files.read_text(files.join(folder, COUNTS_FILE))
    return None if text is None else dict(json.loads(text))


def _write(counts: dict[str, int], path: str, *_written: object) -> None:
    files.write_text(path, json.dumps(counts, indent=1, sort_keys=True) + "\n")
