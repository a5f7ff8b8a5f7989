"""Copying batches to a GPU ahead of the step."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow as tf

from tfrec_limaml.training.device_prefetch import prefetch_to_gpu


@pytest.fixture
def by_epoch():
    """A dataset that reads the number of the epoch, and the number."""
    epoch = tf.Variable(0, dtype=tf.int64)
    numbers = tf.data.Dataset.range(1).flat_map(
        lambda _: tf.data.Dataset.range(3).map(lambda n: {"value": 10 * epoch.read_value() + n})
    )
    return numbers, epoch


def test_without_a_gpu_the_dataset_stays_as_it_is(by_epoch, monkeypatch):
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [])
    assert prefetch_to_gpu(by_epoch[0]) is by_epoch[0]


def test_the_batches_of_each_epoch_arrive_on_the_device(by_epoch, monkeypatch):
    dataset, epoch = by_epoch
    processors = tf.config.list_logical_devices("CPU")
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: processors)
    prefetched = prefetch_to_gpu(dataset)
    assert prefetched is not dataset
    assert prefetched.element_spec == dataset.element_spec
    for number in range(2):
        epoch.assign(number)
        values = [int(batch["value"]) for batch in prefetched]
        assert values == [10 * number + n for n in range(3)]


@pytest.mark.slow
def test_batches_of_task_records_arrive_unchanged_on_another_device(forks, tasks_folder):
    """In a separate process: logical devices must be configured before TensorFlow starts."""
    script = Path(__file__).with_name("other_device.py")
    done = forks().start(script, str(tasks_folder)).wait(300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-1] == "equal"
