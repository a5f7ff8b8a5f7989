"""Prints whether the batches of two epochs arrive unchanged on a second logical device, from task
records and with the number of the epoch on either device.

Usage: other_device.py TASKS.
"""

import sys

import tensorflow as tf

from tfrec_limaml import task_dataset
from tfrec_limaml.training import device_prefetch
from tfrec_limaml.training.recipes import load_encoder


def labels(dataset):
    batches = list(dataset)
    values = [batch["support"]["label"].numpy().tolist() for batch in batches]
    return values, {batch["support"]["label"].device.rsplit("/", 1)[-1] for batch in batches}


def main(tasks):
    (processor,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    first, second = tf.config.list_logical_devices("CPU")
    tf.config.list_logical_devices = lambda kind: [second]  # in place of a GPU
    for device in (first, second):
        with tf.device(device.name):
            epoch = tf.Variable(0, dtype=tf.int64)
        pattern, encoder = f"{tasks}/member/train-*", load_encoder(tasks)
        dataset = task_dataset(pattern, encoder, 8, shuffle=True, seed=1, epoch=epoch)
        prefetched = device_prefetch.prefetch_to_gpu(dataset)
        epochs = []
        for number in range(2):
            epoch.assign(number)
            (values, _), (copied, devices) = labels(dataset), labels(prefetched)
            assert values == copied
            assert devices == {"device:CPU:1"}, devices
            epochs.append(values)
        assert epochs[0] != epochs[1]
    print("equal")


if __name__ == "__main__":
    main(sys.argv[1])
