"""Timers of the learning core: one call is one measurement."""

from __future__ import annotations

import time

import tensorflow as tf

from tfrec_limaml.training.device_prefetch import prefetch_to_gpu


def repeated(dataset):
    """The dataset, repeated without end, for `fit`."""
    options = tf.data.Options()
    # The tuner's thread would delay the end of `fit`, as in task_dataset.
    options.autotune.enabled = False
    return dataset.repeat().with_options(options)


class FitTimer:
    """Seconds per step inside `fit`, over a repeated batch; copied ahead to a GPU, if any."""

    def __init__(self, model, dataset, steps):
        self.model, self.dataset, self.steps = model, prefetch_to_gpu(repeated(dataset)), steps

    def __call__(self):
        return seconds_of_fit(self.model, self.dataset, self.steps) / self.steps


def seconds_of_fit(model, dataset, steps):
    started = time.perf_counter()
    model.fit(dataset, steps_per_epoch=steps, verbose=0)
    return time.perf_counter() - started


class StepTimer:
    """Seconds per call of a function that returns a tensor."""

    def __init__(self, function, calls):
        self.function, self.calls = function, calls

    def __call__(self):
        started = time.perf_counter()
        for _ in range(self.calls):
            result = self.function()
        result.numpy()
        return (time.perf_counter() - started) / self.calls


class EmbedTimer:
    """Tasks per second of fine-tuning and embedding some batches, one call per batch."""

    def __init__(self, function, batches):
        self.function, self.batches = function, list(batches)
        self.tasks = sum(int(b["label"].shape[0]) for b in self.batches)

    def __call__(self):
        started = time.perf_counter()
        for batch in self.batches:
            self.function(batch).numpy()
        return self.tasks / (time.perf_counter() - started)


def gemm(size=1024):
    repeats = 10
    a, b = tf.random.normal([size, size]), tf.random.normal([size, size])

    @tf.function(autograph=False)
    def product():
        c = a
        for _ in range(repeats):
            c = tf.matmul(c, b) * 1e-2
        return c

    return StepTimer(product, 3), 2 * size**3 * repeats / 1e9
