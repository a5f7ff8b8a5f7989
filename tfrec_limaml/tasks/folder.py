"""The layout of a folder of task records.

::

    <tasks>/schema.yaml  <tasks>/statistics.json  <tasks>/data_card.json
    <tasks>/<definition>/<split>-00000-of-00004.tfrecord.gz
    <tasks>/history/<keys>.parquet/    <tasks>/dead_letter/

`tfrec_limaml.tasks.record_format` says what the records of each split hold.
"""

from __future__ import annotations

SCHEMA_FILE = "schema.yaml"
STATISTICS_FILE = "statistics.json"
DATA_CARD_FILE = "data_card.json"
DEAD_LETTERS = "dead_letter"
HISTORY = "history"

SPLITS = ("train", "validation", "test", "recent")
#: The split that embeddings are made of.
RECENT = "recent"


def shard_name(split: str, shard: int, shards: int) -> str:
    """File name of one shard of a split."""
    return f"{split}-{shard:05d}-of-{shards:05d}.tfrecord.gz"


def shard_pattern(split: str) -> str:
    """Glob pattern of the file names of a split."""
    return f"{split}-*.tfrecord*"
