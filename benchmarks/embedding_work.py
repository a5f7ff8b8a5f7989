"""Batches for fine-tuning and embedding tasks, and two slower implementations."""

from __future__ import annotations

import numpy as np
import reference_work as work
import tensorflow as tf

EMBED_MAX, EMBED_BATCH, EMBED_STEPS = 24, 512, 3


def embedding_batches(counts, rng, bucketed):
    """Support sets of 512 tasks, in batches.

    Sorted by length and padded to the batch's longest task if `bucketed`; else in the given order
    and padded to 24 samples.
    """
    order = np.argsort(counts, kind="stable") if bucketed else np.arange(len(counts))
    for start in range(0, len(counts), EMBED_BATCH):
        in_batch = counts[order[start : start + EMBED_BATCH]]
        width = int(in_batch.max()) if bucketed else EMBED_MAX
        samples = work.random_samples(rng, len(in_batch), width)
        samples["weight"] = tf.constant((np.arange(width) < in_batch[:, None]).astype(np.float32))
        yield samples


def naive_embedder():
    """The simplest form: the whole network in every step, on concatenated inputs."""
    model = work.model("limaml_n1")

    @tf.function(reduce_retracing=True, autograph=False)
    def run(samples):
        meta, other = samples["features"]["meta"], samples["features"]["other"]
        weights = [
            tf.repeat(tf.convert_to_tensor(v)[None], tf.shape(meta)[0], 0)
            for v in model.inner_variables
        ]

        def embed(w):
            return (
                tf.matmul(tf.nn.relu(tf.matmul(meta, w[0]) + w[1][:, None]), w[2]) + w[3][:, None]
            )

        block = model.global_block
        for _ in range(EMBED_STEPS):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                rows = {
                    "meta": tf.reshape(meta, [-1, work.META]),
                    "other": tf.reshape(other, [-1, work.OTHER]),
                }
                kernel = tf.concat(
                    [block.context_layer.kernel.value, block.embedding_layer.kernel.value], 0
                )
                inputs = tf.concat(
                    [rows["meta"], rows["other"], tf.reshape(embed(weights), [-1, 32])], -1
                )
                logits = block.network(
                    tf.nn.relu(tf.matmul(inputs, kernel) + block.context_layer.bias.value)
                )[:, 0]
                loss = tf.reduce_sum(
                    model.task_loss(tf.reshape(logits, tf.shape(samples["label"])), samples)
                )
            weights = [
                w - 0.1 * g for w, g in zip(weights, tape.gradient(loss, weights), strict=True)
            ]
        return embed(weights)

    return run


def eager_loop(model):
    """Task by task, step by step, from Python: the cost of a loop over members."""
    return lambda samples: model.task_embeddings(samples)[0]
