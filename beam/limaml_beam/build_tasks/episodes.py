"""Training episodes: training tasks with support and query rows as a daily job would see them.

The history features of a training row are computed at its own time; those of a served row are as
old as the last job. An episode draws a time, the *split time*, for each task: rows before it are
support rows, and rows from it on are query rows whose history features are frozen at the split
time, as those of validation and test rows are frozen at the start of their split. With a split by
date, query rows are only those of as long a period as that of the validation rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from limaml_beam.build_tasks.grouping import TRAIN
from limaml_beam.build_tasks.settings import TaskSettings
from limaml_beam.build_tasks.split_summary import SplitSummary
from limaml_beam.rows import columnar
from limaml_beam.rows.columnar import EPISODES, TIME
from tfrec_limaml.arrays import Integers
from tfrec_limaml.schema.schema import Schema

#: The lowest and the highest share of a task's training rows before a split time.
_EARLIEST, _LATEST = 0.2, 0.9


def frozen_column(name: str, episode: int) -> str:
    """The block column with a history feature as an episode's rows see it."""
    return f"{name}@{episode}"


def split_times_within_tasks(
    keys: npt.NDArray[np.uint64],
    tasks: Integers,
    times: Integers,
    order: Integers,
    segment: Integers,
    episodes: int,
) -> Integers:
    """The split time of each row's task in each episode: the time of a random training row.

    It depends only on the task and the episode.

    Args:
        keys: A hash of each task's key ``[tasks]``: the seed of its draws.
        tasks: Number of each row's task ``[N]``.
        times: Milliseconds ``[N]``.
        order: Orders rows of one task and time ``[N]``.
        segment: 0 for train rows ``[N]``.
        episodes: Number of split times per task.

    Returns:
        Milliseconds ``[N, episodes]``; tasks without training rows get 0.
    """
    by_task = np.lexsort((order, times, segment, tasks))
    first = np.searchsorted(tasks[by_task], np.arange(len(keys)))
    counts = np.bincount(tasks[segment == TRAIN], minlength=len(keys))
    shares = _EARLIEST + (_LATEST - _EARLIEST) * _uniform(keys, episodes)
    position = np.minimum(np.ceil(shares * counts[:, None]).astype(np.int64), counts[:, None] - 1)
    split_times = times[by_task][first[:, None] + np.maximum(position, 0)]
    by_row: Integers = np.where(counts[:, None] > 0, split_times, 0)[tasks]
    return by_row


def _uniform(keys: npt.NDArray[np.uint64], episodes: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that depend only on a key and the episode ``[tasks, episodes]``."""
    mixed = keys[:, None] + np.arange(1, episodes + 1, dtype=np.uint64) * np.uint64(
        0x9E3779B97F4A7C15
    )
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) / 2.0**53


def split_times_by_date(summary: SplitSummary, episodes: int) -> Integers:
    """One split time per episode ``[episodes]`` for all tasks, in milliseconds.

    They are spread over the training period and shuffled.
    """
    first, last = summary.first[TRAIN] or 0, summary.last[TRAIN] or 0
    shares = _EARLIEST + (_LATEST - _EARLIEST) * (np.arange(episodes) + 0.5) / episodes
    np.random.default_rng(0).shuffle(shares)
    split_times: Integers = (first + shares * (last - first)).astype(np.int64)
    return split_times


def as_column(split_times: Integers) -> pa.Array:
    """Split times ``[N, episodes]`` as a block column."""
    flat = pa.array(np.ascontiguousarray(split_times).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, split_times.shape[1])


def split_times_of(table: pa.Table) -> Integers:
    """The split times ``[N, episodes]`` of a block; no episodes if it has none."""
    if EPISODES not in table.column_names:
        return np.empty((table.num_rows, 0), np.int64)
    column = table[EPISODES].combine_chunks()
    flat: Integers = columnar.to_numpy(column.flatten())
    return flat.reshape(table.num_rows, -1)


class AddSplitTimes(beam.DoFn):
    """(partition, block) -> (partition, block with the split times by date)."""

    def __init__(self, episodes: int) -> None:
        self.episodes = episodes

    def process(
        self, element: tuple[int, pa.Table], summary: SplitSummary
    ) -> Iterator[tuple[int, pa.Table]]:
        """Adds the same split times to every row."""
        partition, block = element
        split_times = np.tile(split_times_by_date(summary, self.episodes), (block.num_rows, 1))
        yield partition, block.append_column(EPISODES, as_column(split_times))


def definitions_with(schema: Schema, settings: TaskSettings) -> tuple[str, ...]:
    """The task definitions that episodes are written for: those with one split time per task.

    With a split by date, these are all definitions. A split within tasks draws split times for its
    own definition; the definitions that refine it share them.
    """
    if not settings.episodes:
        return ()
    if settings.task_shares is None:
        return settings.definitions
    split = set(schema.task_columns(settings.split_definition))
    return tuple(d for d in settings.definitions if split <= set(schema.task_columns(d)))


def query_starts(table: pa.Table, starts: Integers, stops: Integers, episode: int) -> Integers:
    """Index of the first query row of each record of training rows ``[records]``."""
    return _rows_before(table, starts, stops, split_times_of(table)[:, episode])


def query_stops(
    table: pa.Table, settings: TaskSettings, starts: Integers, stops: Integers, episode: int
) -> Integers:
    """One past the last query row of each record of training rows ``[records]``.

    With a split by date, query rows are those of as long a period after the split time as that of
    the validation rows: a row that is served comes soon after the last job. With a split within
    tasks, they are all rows that follow; see `docs/decisions.md`.
    """
    if settings.task_shares is not None:
        return stops
    end = split_times_of(table)[:, episode] + settings.query_period
    return starts + _rows_before(table, starts, stops, end)


def _rows_before(table: pa.Table, starts: Integers, stops: Integers, limits: Integers) -> Integers:
    """Rows of each record that are earlier than their row's limit ``[records]``."""
    total = np.concatenate([[0], np.cumsum(columnar.to_numpy(table[TIME]) < limits)])
    count: Integers = total[stops] - total[starts]
    return count


def frozen_columns(schema: Schema, table: pa.Table, episode: int) -> dict[str, pa.ChunkedArray]:
    """The history features as the rows of an episode see them, by feature name."""
    names = [name for history in schema.history for name in history.names().values()]
    return {name: table[frozen_column(name, episode)] for name in names}
