"""Prints how far two replicas end from one device on the same global batches, and how far training
moved. A task has no query samples, so that the replicas hold different numbers of tasks that count.
Gradient descent shows the size of the gradients, which Adam's steps do not depend on.
"""

import keras
import numpy as np
import tensorflow as tf
from graphs import optimise

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock

TASKS = 8


def samples(rng, size):
    weight = np.ones((3, TASKS, size), "f")
    weight[:, 0] = 0
    return {
        "features": {
            name: rng.normal(size=(3, TASKS, size, width)).astype("f")
            for name, width in (("meta", 3), ("other", 2))
        },
        "label": (rng.random((3, TASKS, size)) < 0.5).astype("f"),
        "weight": weight,
    }


def model(build=True):
    keras.utils.set_random_seed(5)
    built = LiMAML(
        MLPMetaBlock((4,), 2),
        MLPGlobalBlock((5,)),
        inner_learning_rate=0.5,
        unadapted_loss_weight=0.5,
    )
    if build:
        built.build({"meta": (None, 3), "other": (None, 2)})
    built.compile(keras.optimizers.SGD(0.5, global_clipnorm=0.1))
    return built


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    rng = np.random.default_rng(0)
    dataset = tf.data.Dataset.from_tensor_slices(
        {"support": samples(rng, 4), "query": samples(rng, 3)}
    )
    alone = model()
    start = alone.get_weights()
    alone.fit(dataset, epochs=2, verbose=0)
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        together = model(build=False)  # it is built outside the scope, by `fit`
    together.fit(dataset.unbatch().batch(TASKS), epochs=2, verbose=0)
    print(
        max(
            np.abs(a - b).max()
            for a, b in zip(alone.get_weights(), together.get_weights(), strict=True)
        ),
        max(np.abs(a - b).max() for a, b in zip(alone.get_weights(), start, strict=True)),
    )


if __name__ == "__main__":
    optimise(False)
    main()
