"""Timers of the learning core: one call is one measurement."""

from __future__ import annotations

import time

import tensorflow as tf


class FitTimer:
    """Milliseconds per step inside `fit`, over a repeated batch that is ready in memory."""

    def __init__(self, model, dataset, steps):
        options = tf.data.Options()
        options.autotune.enabled = (
            False  # its thread would hold up the end of `fit`, as it would in task_dataset
        )
        self.model, self.dataset, self.steps = model, dataset.repeat().with_options(options), steps

    def __call__(self):
        started = time.perf_counter()
        self.model.fit(self.dataset, steps_per_epoch=self.steps, verbose=0)
        return (time.perf_counter() - started) / self.steps


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


def gemm(size=1024, repeats=10):
    a, b = tf.random.normal([size, size]), tf.random.normal([size, size])

    @tf.function(autograph=False)
    def product():
        c = a
        for _ in range(repeats):
            c = tf.matmul(c, b) * 1e-2
        return c

    return StepTimer(product, 3), 2 * size**3 * repeats / 1e9
