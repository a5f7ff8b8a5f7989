"""All private APIs of TensorFlow that the learning core uses."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from tfrec_limaml.internals import internal

_CREATE = "_create_device_dataset"


def device_datasets_without_tuner() -> None:
    """Disables autotuning in the datasets that strategies put between a dataset and its devices.

    Options of the dataset itself do not reach them. Such a dataset holds one batch and has nothing
    to tune, but its tuner sleeps for longer and longer, and the first batch of the next epoch waits
    for it to wake up, for up to half a minute.
    """
    create = internal(tf, multi_device_iterator_ops, _CREATE)
    if getattr(create, "without_tuner", False):
        return

    def plain(*args: Any, **kwargs: Any) -> tf.data.Dataset:
        options = tf.data.Options()
        options.autotune.enabled = False
        return create(*args, **kwargs).with_options(options)

    plain.without_tuner = True  # type: ignore[attr-defined]
    setattr(multi_device_iterator_ops, _CREATE, plain)
