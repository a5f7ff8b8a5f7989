"""Task records in packed batches: bytes in, bytes out, no proto decoded in Python.

A packed batch is one `bytes`: the number of records, their lengths (little-endian uint32) and the
records. One element of a pipeline then carries hundreds of tasks, and the cost of an element is
paid once per batch. The adapter pads its batch to the longest task, so tasks of similar length go
into one batch.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import numpy as np
from apache_beam.utils.shared import Shared

from limaml_beam.generate_embeddings.counts import tagged_counts
from limaml_beam.generate_embeddings.digests import DigestSet, as_array, digest
from limaml_beam.generate_embeddings.tables import DEAD_LETTERS, UNREADABLE_FILE, dead_letter_table
from limaml_beam.io.read_errors import READ_ERRORS, SourceError
from limaml_beam.io.tfrecords import read_records
from tfrec_limaml.wire_format import read_varint

UNCHANGED = "unchanged"

# Most bytes that are read at once, that wait for more tasks of their width, and of one batch.
BLOCK_RECORDS = 1024
BLOCK_BYTES = 32 << 20
BATCH_BYTES = 32 << 20
#: Most rows of one batch, padding included.
BATCH_ROWS = 1 << 17

#: Longest tasks of each group: up to 8 samples one by one, then four groups per doubling, so that
#: padding adds a quarter at most.
SAMPLE_WIDTHS = (*range(1, 9), *(step << shift for shift in range(1, 17) for step in (5, 6, 7, 8)))

# The entry `sample_count` of a record's context, packed or not, as the protobuf wire format has it;
# the context comes first.
CONTEXT_BYTES = 4096
_SAMPLE_COUNT = re.compile(
    rb"\x0a\x0csample_count\x12.\x1a.(?:\x0a.|\x08)([\x80-\xff]*[\x00-\x7f])", re.DOTALL
)


def pack(records: Sequence[bytes]) -> bytes:
    """Packs records into one batch."""
    header = np.array([len(records), *map(len, records)], "<u4")
    return b"".join((header.tobytes(), *records))


def unpack(batch: bytes) -> list[bytes]:
    """Inverse of `pack`."""
    count = int(np.frombuffer(batch, "<u4", 1)[0])
    ends = 4 * (count + 1) + np.cumsum(np.frombuffer(batch, "<u4", count, 4), dtype=np.int64)
    starts = np.concatenate(([4 * (count + 1)], ends[:-1]))
    return [batch[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def sample_count(record: bytes) -> int:
    """The number of samples that a record states; 0 if it states none."""
    match = _SAMPLE_COUNT.search(record, 0, CONTEXT_BYTES)
    return read_varint(match[1]) if match else 0


def sample_width(count: int) -> int:
    """The longest task, in samples, that shares a batch with a task of `count` samples."""
    index = bisect.bisect_left(SAMPLE_WIDTHS, count)
    return SAMPLE_WIDTHS[index] if index < len(SAMPLE_WIDTHS) else count


def max_tasks(width: int, batch_size: int) -> int:
    """Most tasks of up to `width` samples in one batch: `batch_size`, within `BATCH_ROWS` rows."""
    return max(1, min(batch_size, BATCH_ROWS // width))


def batches_by_width(records: Iterable[bytes], batch_size: int) -> Iterator[list[bytes]]:
    """Batches of at most `batch_size` tasks of similar length."""
    batches: dict[int, list[bytes]] = defaultdict(list)
    sizes: dict[int, int] = defaultdict(int)
    for block in _prefetched(_blocks(records)):
        for record in block:
            width = sample_width(sample_count(record))
            if batches[width] and sizes[width] + len(record) > BATCH_BYTES:
                del sizes[width]
                yield batches.pop(width)
            batches[width].append(record)
            sizes[width] += len(record)
            if len(batches[width]) == max_tasks(width, batch_size):
                del sizes[width]
                yield batches.pop(width)
        while sum(sizes.values()) > BLOCK_BYTES:
            largest = max(sizes, key=sizes.__getitem__)
            del sizes[largest]
            yield batches.pop(largest)
    yield from batches.values()


class ReadBatches(beam.DoFn):  # type: ignore[misc]
    """File paths to packed batches.

    Outputs: packed batches; `DEAD_LETTERS`: a table for each file that cannot be read to its end;
    `UNCHANGED`: digests, joined, of records that the previous generation has already seen;
    `COUNTS`.

    Args:
        batch_size: Maximum number of records in one batch.
        load_previous: Loads the digests of the previous generation, or None for a full run. Called
            once per process.
    """

    def __init__(
        self, batch_size: int, load_previous: Callable[[], DigestSet] | None = None
    ) -> None:
        self._batch_size = batch_size
        self._load_previous = load_previous
        self._shared = Shared()
        self._previous: DigestSet | None = None

    def setup(self) -> None:
        """Loads the previous digests once per process."""
        if self._load_previous is not None:
            self._previous = self._shared.acquire(self._load_previous)

    def process(self, path: str) -> Iterator[object]:
        """Reads one file."""
        unchanged_digests: list[bytes] = []
        errors: list[str] = []
        read = 0
        for batch in batches_by_width(
            self._changed(path, unchanged_digests, errors), self._batch_size
        ):
            read += len(batch)
            yield pack(batch)
        unchanged = b"".join(unchanged_digests)
        if unchanged:
            yield beam.pvalue.TaggedOutput(UNCHANGED, unchanged)
        if errors:
            yield beam.pvalue.TaggedOutput(
                DEAD_LETTERS, dead_letter_table([UNREADABLE_FILE], errors, [None])
            )
        yield tagged_counts(
            tasks_read=read + len(as_array(unchanged)), unreadable_files=len(errors)
        )

    def _changed(
        self, path: str, unchanged_digests: list[bytes], errors: list[str]
    ) -> Iterator[bytes]:
        """Records that the previous generation has not seen.

        The digests of the others are appended to `unchanged_digests`.
        """
        try:
            if self._previous is None:
                yield from read_records(path)
                return
            for block in _blocks(read_records(path)):
                digests = as_array(b"".join(map(digest, block)))
                known = self._previous.contains(digests)
                unchanged_digests.append(digests[known].tobytes())
                yield from itertools.compress(block, ~known)
        except SourceError as error:
            errors.append(str(error))
        except READ_ERRORS as error:
            errors.append(f"{path}: {error}")


def _prefetched(items: Iterator[list[bytes]]) -> Iterator[list[bytes]]:
    """Reads the next block in a thread while the current one is adapted.

    Decompression does not need the interpreter lock.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item


def _blocks(records: Iterable[bytes]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    size = 0
    for record in records:
        block.append(record)
        size += len(record)
        if len(block) == BLOCK_RECORDS or size >= BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block
