"""Encoded features: the dictionary of tensors that every block reads.

`FeatureEncoder` turns raw columns into ``{"meta": float [..., F_m], "other": float [..., F_o]}``
plus one entry for each feature with an embedding: int32 ids ``[...]``, or, for
multi-valued ones, a float multi-hot ``[..., V]``; and int64 ``[...]`` for each nested task
definition, see `subtask_feature`.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

META = "meta"
OTHER = "other"
#: Further features of batches for `JointLiMAML`: the task's side, 0 or 1, and the table row of the
#: row's other task, both int32 ``[..., N]``; or the other task's offset, float ``[..., N, D]``.
SIDE = "joint:side"
OTHER_ROW = "joint:other_row"
OTHER_OFFSET = "joint:other_offset"

Features = Mapping[str, tf.Tensor]


_SUBTASK = "subtask:"
#: How the names of encoded features begin that are not a column's, nor a role's.
DERIVED = ("joint:", _SUBTASK)


def subtask_feature(definition: str) -> str:
    """Name of the encoded feature, int64 ``[N]``, that identifies a row's subtask.

    It is equal for rows of one task with the same key of `definition`.
    """
    return f"{_SUBTASK}{definition}"


def feature_specs(shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, tf.TensorSpec]:
    """Specifications of encoded features with these shapes ``[N, ...]``."""
    return {name: tf.TensorSpec(shape, _dtype(name, len(shape))) for name, shape in shapes.items()}


def _dtype(name: str, rank: int) -> tf.DType:
    if rank > 1:
        return tf.float32
    return tf.int64 if name.startswith(_SUBTASK) else tf.int32


def zero_row(shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, tf.Tensor]:
    """One row of zeros as encoded features with these shapes ``[N, ...]``."""
    specs = feature_specs(shapes)
    return {name: tf.zeros([1, *spec.shape[1:]], spec.dtype) for name, spec in specs.items()}
