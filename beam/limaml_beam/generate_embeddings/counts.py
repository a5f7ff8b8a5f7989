"""What became of every task, counted twice: Beam's counters show it while a job runs; the same
numbers as data are exact, and are there for whoever finishes a job that another process launched.
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


def counted(**numbers: int) -> beam.pvalue.TaggedOutput:
    """Counts in the running job; the result is to be yielded."""
    for name, number in numbers.items():
        Metrics.counter(NAMESPACE, name).inc(number)
    return beam.pvalue.TaggedOutput(COUNTS, numbers)


class WriteCounts(beam.PTransform):  # type: ignore[misc]
    """Counts to one file, which is written last: where it lies, the job is done.

    Args:
        folder: Where to.
        after: Names of written files; all of them are complete before.
    """

    def __init__(self, folder: str, after: list[beam.PCollection]) -> None:
        super().__init__()
        self._path = files.join(folder, COUNTS_FILE)
        self._after = after

    def expand(self, counts: beam.PCollection) -> beam.PCollection:
        """Adds up and writes."""
        written = [beam.pvalue.AsIter(names) for names in self._after]
        return (
            counts
            | "Add" >> beam.CombineGlobally(sum_counts)
            | "Write" >> beam.Map(_write, self._path, *written)
        )


def read_counts(folder: str) -> dict[str, int] | None:
    """Counts of a job that is done; None where it is not."""
    text = files.read_text(files.join(folder, COUNTS_FILE))
    return None if text is None else dict(json.loads(text))


def _write(counts: dict[str, int], path: str, *_written: object) -> None:
    files.write_text(path, json.dumps(counts, indent=1, sort_keys=True) + "\n")
