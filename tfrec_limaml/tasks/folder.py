"""The layout of a folder of task records.

::

    <tasks>/schema.yaml  <tasks>/statistics.json  <tasks>/data_card.json
    <tasks>/<definition>/<split>-00000-of-00004.tfrecord.gz
    <tasks>/<definition>/episode-<number>-00000-of-00004.tfrecord.gz
    <tasks>/history/<keys>.parquet/    <tasks>/dead_letter/

`tfrec_limaml.tasks.record_format` describes the records of each split.
"""

from __future__ import annotations

import itertools
from pathlib import Path

SCHEMA_FILE = "schema.yaml"
STATISTICS_FILE = "statistics.json"
DATA_CARD_FILE = "data_card.json"
DEAD_LETTERS = "dead_letter"
HISTORY = "history"

EPISODE = "episode"
#: The parts of the rows that the split dates, or shares of each task, separate.
PARTS = ("train", "validation", "test")
#: The split that embeddings are computed from.
RECENT = "recent"
SPLITS = (*PARTS, RECENT)


def episode(number: int) -> str:
    """The split that holds one support/query split of every training task."""
    return f"{EPISODE}-{number}"


def episodes_in(definition: Path) -> tuple[str, ...]:
    """The episodes in the folder of a task definition."""
    names = map(episode, itertools.count())
    return tuple(itertools.takewhile(lambda n: any(definition.glob(shard_pattern(n))), names))


def shard_name(split: str, shard: int, shards: int) -> str:
    """File name of one shard of a split."""
    return f"{split}-{shard:05d}-of-{shards:05d}.tfrecord.gz"


def shard_pattern(split: str) -> str:
    """Glob pattern of the file names of a split."""
    return f"{split}-*.tfrecord*"
