"""The rows of task records as flat columns, for tabular models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import tensorflow as tf

from tfrec_limaml.arrays import Array, Integers
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.parsing import parse_tasks
from tfrec_limaml.tasks.record_files import read_records, record_files

#: Reason for which a rival without IDs cannot run.
NO_FEATURE = "the schema has no feature besides IDs"
_BATCH, _ENCODED = 4096, 65_536  # records parsed, and rows encoded, at a time


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows ``[N]`` in the order of the files.

    Attributes:
        label, weight, timestamp: Values of each row.
        task_key: Key of each row's task, bytes.
        task: Number of each row's task.
        history: Number of support rows of the row's task.
        last_seen: Time of the newest support row, milliseconds; 0 without any.
        columns: Raw feature values by name, ``[N]`` or ``[N, width]``.
    """

    label: Array
    weight: Array
    timestamp: Array
    task_key: Array
    task: Array
    history: Array
    last_seen: Array
    columns: dict[str, Array]

    def order_of(self, task_key: Array) -> Integers:
        """The order that brings the same rows, read task by task in another order, into this one.

        Args:
            task_key: Key of each of those rows, whose order within a task is the same.
        """
        order = np.empty(len(self.task_key), np.int64)
        order[np.argsort(self.task_key, kind="stable")] = np.argsort(task_key, kind="stable")
        return order

    def identity(self) -> npt.NDArray[np.uint64]:
        """A hash of each row's key, time, label and declared values.

        It is the same after repeating `limaml prepare` on the same data.
        """
        frame = pd.DataFrame(
            {"key": _text(self.task_key), "time": self.timestamp, "label": self.label}
        )
        for name, values in self.columns.items():
            if not name.startswith("history_") and values.ndim == 1:
                frame[name] = _text(values) if values.dtype.kind in "SO" else values
        hashed: npt.NDArray[np.uint64] = pd.util.hash_pandas_object(frame, index=False).to_numpy()
        return hashed


def _text(values: Array) -> Array:
    """Values of UTF-8 bytes ``[N]`` as text."""
    texts: Array = pa.array(values, pa.binary()).cast(pa.string()).to_numpy(zero_copy_only=False)
    return texts


def read_rows(pattern: str | Sequence[str], schema: Schema) -> Rows:
    """Reads the query rows of evaluation records, or all rows of training records.

    Leaves out rows of weight 0, which no model is trained or scored on.

    Args:
        pattern: Files of task records.
        schema: Schema of the records.

    Raises:
        LimamlError: They hold no task.
    """
    files = record_files(pattern)
    parts: list[dict[str, Array]] = []
    for serialized in read_records(files).batch(_BATCH):
        tasks = parse_tasks(serialized, schema)
        counts = tasks.counts.numpy()
        start = np.maximum(tasks.query_start.numpy(), 0)
        position = np.arange(counts.sum()) - np.repeat(tasks.first.numpy(), counts)
        weight = tasks.columns[record_format.WEIGHT].numpy()
        mask = (position >= np.repeat(start, counts)) & (weight > 0)
        part = {name: value.numpy()[mask] for name, value in tasks.columns.items()}
        part["task_key"] = np.repeat(tasks.task_key.numpy(), counts)[mask]
        part["history"] = np.repeat(start, counts)[mask]
        newest = tasks.splits.numpy()[:-1] + np.maximum(start - 1, 0)
        last_seen = np.where(
            start > 0,
            tasks.columns[record_format.TIMESTAMP].numpy()[np.minimum(newest, counts.sum() - 1)],
            0,
        )
        part["last_seen"] = np.repeat(last_seen, counts)[mask]
        parts.append(part)
    if not parts:
        raise LimamlError(
            f"the records {files[0]} and following hold no task, but a comparison needs training, "
            "validation and test rows; build them with other dates, and without --no-validation"
        )
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if not len(columns["label"]):
        raise LimamlError(f"no rows in {Path(files[0]).parent}; check the split of the schema")
    return Rows(
        columns[record_format.LABEL],
        columns[record_format.WEIGHT],
        columns[record_format.TIMESTAMP],
        columns["task_key"],
        np.unique(columns["task_key"], return_inverse=True)[1],
        columns["history"],
        columns["last_seen"],
        {f.name: columns[f.name] for f in schema.all_features},
    )


def table(rows: Rows, encoder: FeatureEncoder, ids: bool) -> pd.DataFrame:
    """A data frame for tree learners.

    Numbers are unchanged, categories are codes, and multi-valued features have one column per
    token.

    Args:
        rows: The rows.
        encoder: Has the vocabularies.
        ids: Whether features with an embedding (IDs) are included.
    """
    columns: list[tuple[str, Any]] = []  # a feature may be named like another one's token
    for feature in encoder.schema.all_features:
        values = rows.columns[feature.name]
        if not feature.categorical:
            columns += _numbers(feature, values)
        elif feature.separator is not None:
            columns += _tokens(feature, values, encoder)
        elif ids or feature.embedding_width is None:
            codes = encoder.ids(feature, tf.constant(values)).numpy()
            categories = range(encoder.size(feature))
            columns.append((feature.name, pd.Categorical.from_codes(codes, categories=categories)))
    frame = pd.DataFrame(
        {position: values for position, (_, values) in enumerate(columns)},
        index=range(len(rows.label)),
    )
    return frame.set_axis([name for name, _ in columns], axis=1)


def encoded_parts(rows: Rows, encoder: FeatureEncoder) -> Iterator[dict[str, tf.Tensor]]:
    """The encoded features of the rows, in order, some rows at a time."""
    for start in range(0, len(rows.label), _ENCODED):
        raw = {n: tf.constant(v[start : start + _ENCODED]) for n, v in rows.columns.items()}
        yield encoder(raw)


def dense(rows: Rows, encoder: FeatureEncoder) -> npt.NDArray[np.float32]:
    """The dense encoding ``[N, F]`` of networks, including multi-valued features.

    Raises:
        LimamlError: All features are embedded, so there is no dense encoding.
    """
    parts = []
    for encoded in encoded_parts(rows, encoder):
        wide = [v for v in encoded.values() if v.dtype.is_floating]
        parts.append(tf.concat(wide, -1).numpy())
    result: npt.NDArray[np.float32] = np.concatenate(parts)
    if not result.shape[1]:
        raise LimamlError(NO_FEATURE)
    return result


def _numbers(feature: Feature, values: Array) -> list[tuple[str, Array]]:
    if feature.width == 1:
        return [(feature.name, values)]
    return [(f"{feature.name}_{i}", values[:, i]) for i in range(feature.width)]


def _tokens(feature: Feature, values: Array, encoder: FeatureEncoder) -> list[tuple[str, Array]]:
    tokens = tf.strings.split(tf.constant(values), feature.separator)
    codes = encoder.ids(feature, tokens.flat_values).numpy()
    hot = np.zeros((len(values), encoder.size(feature)), np.float32)
    hot[tokens.value_rowids().numpy(), codes] = 1.0
    return [(f"{feature.name}_{i}", hot[:, i]) for i in range(hot.shape[1])]
