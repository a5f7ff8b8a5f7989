"""Pools the meta embeddings of a task's samples into one stored vector.

Source: Wang et al., "LiMAML: Personalization of Deep Recommender Models via Meta Learning", KDD
2024, Table 14.
"""

from __future__ import annotations

import tensorflow as tf


def latest_index(weight: tf.Tensor) -> tf.Tensor:
    """Index ``[T]`` of each task's last sample of positive weight; 0 if the task has none.

    `weight` is ``[T, S]``.
    """
    positions = tf.range(tf.shape(weight)[1])
    return tf.reduce_max(tf.where(weight > 0, positions, 0), -1)


def pool(embeddings: tf.Tensor, weight: tf.Tensor, how: str = "latest") -> tf.Tensor:
    """Pools the embeddings of each task's samples of positive weight.

    Samples count equally, whatever their weight.

    Args:
        embeddings: Meta embeddings of the samples, ``[T, S, D]``.
        weight: Sample weights ``[T, S]``, 0 for padding.
        how: ``"latest"``, ``"mean"``, ``"max"`` (of each number of the embedding), or ``"cosine"``:
            a mean weighted by the cosine similarity to the latest embedding, where negative
            similarities count as 0.

    Returns:
        One vector per task, ``[T, D]``.
    """
    latest = tf.gather(embeddings, latest_index(weight), batch_dims=1)
    if how == "latest":
        return latest
    mask = tf.cast(weight > 0, embeddings.dtype)
    if how == "max":
        lowest = tf.where(mask[..., None] > 0, embeddings, embeddings.dtype.min)
        return tf.where(
            tf.reduce_any(mask > 0, -1, keepdims=True), tf.reduce_max(lowest, 1), latest
        )
    if how == "cosine":
        unit, unit_latest = (tf.math.l2_normalize(e, -1) for e in (embeddings, latest))
        mask = mask * tf.nn.relu(tf.reduce_sum(unit * unit_latest[:, None], -1))
    total = tf.reduce_sum(mask, -1, keepdims=True)
    pooled = tf.math.divide_no_nan(tf.reduce_sum(embeddings * mask[..., None], 1), total)
    return tf.where(total > 0, pooled, latest)
