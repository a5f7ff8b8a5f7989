"""Small schemas, statistics and folders of task records for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfrec_limaml.schema.schema import Feature, Label, Schema
from tfrec_limaml.tasks.folder import SCHEMA_FILE, STATISTICS_FILE, shard_name
from tfrec_limaml.tasks.statistics import Statistics


def toy_schema(
    *features: Feature,
    label: str = "click",
    timestamp: str = "time",
    tasks: Mapping[str, tuple[str, ...]] | None = None,
    **further: Any,
) -> Schema:
    """A schema of these features, by default with the task definition ``user``."""
    return Schema(
        name="toy",
        label=Label(name=label),
        timestamp=timestamp,
        tasks={"user": ("user_id",)} if tasks is None else tasks,
        features=features,
        **further,
    )


def toy_statistics(features: Mapping[str, Any] | None = None, **changes: Any) -> Statistics:
    """Statistics of these features, by default without any."""
    settings = {"rows": 10, "label_mean": 0.5, "window": {"start": 0, "end": 1}} | changes
    return Statistics(features=dict(features or {}), **settings)


def write_split(
    folder: Path, definition: str, split: str, records: Iterable[bytes], files: int = 1
) -> Path:
    """Writes a split as files of task records, named as by ``limaml prepare``.

    Returns:
        The first file.
    """
    import tensorflow as tf

    paths = [folder / definition / shard_name(split, n, files) for n in range(files)]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    content = list(records)
    for n, path in enumerate(paths):
        with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
            for record in content[n::files]:
                writer.write(record)
    return paths[0]


def write_description(folder: Path, schema: Schema, statistics: Statistics) -> None:
    """Writes the schema and the statistics of a folder of task records."""
    schema.save(folder / SCHEMA_FILE)
    statistics.save(folder / STATISTICS_FILE)


def untuned(dataset: Any) -> Any:
    """The dataset without tf.data's tuner, which can double the duration of an epoch.

    The end of an epoch waits for the tuner.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def news_schema(**changes: Any) -> Schema:
    """A schema with two task definitions and two features; `changes` replace its fields."""
    fields: dict[str, Any] = {
        "name": "news",
        "label": Label(name="opened"),
        "timestamp": "time",
        "tasks": {"user": ("user_id",), "user_tab": ("user_id", "tab")},
        "features": (
            Feature(name="age", role="meta"),
            Feature(name="tab", dtype="string", encoding="vocabulary"),
        ),
    }
    return Schema(**{**fields, **changes})
