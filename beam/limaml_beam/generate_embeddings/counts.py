"""Counts of the tasks by outcome, as Beam counters and as data.

Beam counters show the progress of a running job. Data are exact, and let another process finish a
launched job.
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
    """Increases Beam counters; returns the same counts as an output, which the caller yields."""
    for name, number in numbers.items():
        Metrics.counter(NAMESPACE, name).inc(number)
    return beam.pvalue.TaggedOutput(COUNTS, numbers)


class WriteCounts(beam.PTransform):  # type: ignore[misc]
    """Writes the counts to one file after all others: if it exists, the job has finished.

    Args:
        folder: Folder to write to.
        after: Names of written files: the counts are written once all of these are complete.
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
