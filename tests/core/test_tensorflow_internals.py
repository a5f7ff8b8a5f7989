"""What the learning core uses of TensorFlow's internals is there, and does what is said."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.data.ops import multi_device_iterator_ops

from tfrec_limaml.training.distribution import Workers


def test_datasets_between_a_dataset_and_its_devices_have_no_tuner(monkeypatch):
    create = multi_device_iterator_ops._create_device_dataset
    made = []

    def noting(*args, **kwargs):
        made.append(create(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(multi_device_iterator_ops, "_create_device_dataset", noting)
    workers = Workers.of(tf.distribute.MirroredStrategy(["CPU:0"]))
    given = []
    for _ in range(2):  # a second call wraps nothing anew
        batches = workers.distribute(tf.data.Dataset.range(3))
        wrapped = multi_device_iterator_ops._create_device_dataset
        monkeypatch.setattr(
            multi_device_iterator_ops,
            "_create_device_dataset",
            _keeping(wrapped, given),
        )
        assert [int(number) for number in batches] == [0, 1, 2]
    assert made
    assert all(dataset.options().autotune.enabled is None for dataset in made)
    assert given
    assert all(dataset.options().autotune.enabled is False for dataset in given)


def _keeping(create, given):
    def kept(*args, **kwargs):
        given.append(create(*args, **kwargs))
        return given[-1]

    kept.without_tuner = True
    return kept
