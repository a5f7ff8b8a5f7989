"""Splits each task's rows in time order: the first rows are for training, the last for test.

With a split by date, most members of a small data set have no history before the test rows; with a
split within members they all have one. It has a leak: a training row of one member may be later
than a test row of another, so that what the model learns about items includes their future. History
features do not leak: each row sees only rows before the start of its own member's split.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from limaml_beam.build_tasks import episodes
from limaml_beam.build_tasks.grouping import TRAIN
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import EPISODES, MOMENT, ORDER, PARTITION, ROW, SEGMENT, TASK, TIME
from limaml_beam.rows.shuffle import Shuffle
from tfrec_limaml.arrays import Integers
from tfrec_limaml.schema.schema import Schema


def split_tasks(
    tasks: Integers, times: Integers, order: Integers, shares: tuple[float, float, float]
) -> tuple[Integers, Integers]:
    """The segment of each row, and the time up to which it sees history.

    Args:
        tasks: Number of each row's task ``[N]``.
        times: Milliseconds ``[N]``.
        order: Orders rows of one task and time ``[N]``.
        shares: Shares of train, validation and test rows; their sum is 1.

    Returns:
        0 for train, 1 for validation and 2 for test rows ``[N]``; and a train row's own time, or
        the time of its task's first row of the segment ``[N]``.
    """
    by_task = np.lexsort((order, times, tasks))
    starts = np.flatnonzero(np.diff(tasks[by_task], prepend=-1))
    counts = np.diff(np.append(starts, len(tasks)))
    position = np.arange(len(tasks)) - np.repeat(starts, counts)
    segment = np.zeros(len(tasks), np.int64)
    for share in np.cumsum(shares)[:2]:
        segment += position >= np.repeat(np.round(share * counts), counts)
    segment_starts = np.flatnonzero(np.diff(tasks[by_task] * 3 + segment, prepend=-1))
    first_time = np.repeat(
        times[by_task][segment_starts], np.diff(np.append(segment_starts, len(tasks)))
    )
    moment = np.where(segment == TRAIN, times[by_task], first_time)
    inverse = np.empty_like(by_task)
    inverse[by_task] = np.arange(len(tasks))
    return segment[inverse], moment[inverse]


class SplitWithinTasks(beam.PTransform):
    """(partition, block) -> (partition, block with `SEGMENT`, `MOMENT` and `EPISODES`)."""

    def __init__(self, schema: Schema, settings: TaskSettings, shuffle: Shuffle) -> None:
        super().__init__()
        self.schema, self.settings, self.shuffle = schema, settings, shuffle

    def expand(self, partitions: beam.PCollection) -> beam.PCollection:
        """Sends all rows of one task to one worker, as a few numbers each."""
        assigned = (
            partitions
            | "split by task"
            >> beam.ParDo(_SplitByTask(self.schema, self.settings, self.shuffle)).with_output_types(
                tuple[int, bytes]
            )
            | "same task together" >> beam.GroupByKey()
            | "split"
            >> beam.ParDo(_Split(self.settings, self.shuffle)).with_output_types(tuple[int, bytes])
        )
        packed = partitions | "pack blocks" >> beam.MapTuple(
            lambda partition, block: (partition, self.shuffle.pack(block))
        ).with_output_types(tuple[int, bytes])
        return (
            {"blocks": packed, "values": assigned}
            | "segments back to the rows" >> beam.CoGroupByKey()
            | "add segments"
            >> beam.ParDo(_AddSegments(self.shuffle)).with_output_types(tuple[int, pa.Table])
        )


class _SplitByTask(beam.DoFn):
    def __init__(self, schema: Schema, settings: TaskSettings, shuffle: Shuffle) -> None:
        self.columns = schema.task_columns(settings.split_definition)
        self.partitions, self.shuffle = settings.partitions, shuffle

    def process(self, element: tuple[int, pa.Table]) -> Iterator[tuple[int, bytes]]:
        partition, block = element
        narrow = pa.table(
            {
                TASK: columnar.join_keys(block, self.columns),
                TIME: block[TIME],
                ORDER: block[ORDER],
                PARTITION: pa.array(np.full(block.num_rows, partition, np.int32)),
                ROW: pa.array(np.arange(block.num_rows, dtype=np.int32)),
            }
        )
        hashes = columnar.stable_hash(narrow[TASK])
        return self.shuffle.split(narrow, hashes, self.partitions)


class _Split(beam.DoFn):
    def __init__(self, settings: TaskSettings, shuffle: Shuffle) -> None:
        self.settings, self.shuffle = settings, shuffle

    def process(self, element: tuple[int, Iterable[bytes]]) -> Iterator[tuple[int, bytes]]:
        rows = self.shuffle.unpack_all(element[1]).combine_chunks()
        codes, keys = columnar.codes_of(rows[TASK])
        assert self.settings.task_shares is not None
        times, order = columnar.to_numpy(rows[TIME]), columnar.to_numpy(rows[ORDER])
        segment, moment = split_tasks(codes, times, order, self.settings.task_shares)
        columns = {
            ROW: rows[ROW],
            SEGMENT: pa.array(segment),
            MOMENT: pa.array(moment),
        }
        if self.settings.episodes:
            hashes = columnar.stable_hash(keys)
            columns[EPISODES] = episodes.as_column(
                episodes.split_times_within_tasks(
                    hashes, codes, times, order, segment, self.settings.episodes
                )
            )
        origins = columnar.to_numpy(rows[PARTITION]).astype(np.uint64)
        return self.shuffle.split(pa.table(columns), origins, self.settings.partitions)


class _AddSegments(beam.DoFn):
    def __init__(self, shuffle: Shuffle) -> None:
        self.shuffle = shuffle

    def process(
        self, element: tuple[int, dict[str, Iterable[Any]]]
    ) -> Iterator[tuple[int, pa.Table]]:
        partition, parts = element
        (block,) = map(self.shuffle.unpack, parts["blocks"])
        values = self.shuffle.unpack_all(parts["values"])
        order = np.argsort(columnar.to_numpy(values[ROW]), kind="stable")
        for name in (n for n in values.column_names if n != ROW):
            block = block.append_column(name, values[name].take(pa.array(order)))
        yield partition, block
