"""The reference work that benchmarks share: 64 meta and 128 other features, meta MLP 128-32, global
MLP 256-128-1; for the closed form the same widths with an offset and a dot-product head.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock, Vanilla
from tfrec_limaml.blocks import DotProductGlobalBlock, OffsetMetaBlock
from tfrec_limaml.schema.schema import Feature, Label, Schema

META, OTHER = 64, 128
ALGORITHMS = {
    "vanilla": (Vanilla, {}),
    "limaml_n1": (LiMAML, {"inner_steps": 1}),
    "limaml_n5": (LiMAML, {"inner_steps": 5}),
    "limaml_n1_first_order": (LiMAML, {"inner_steps": 1, "first_order": True}),
    "limaml_n5_cheap": (LiMAML, {"inner_steps": 5, "second_order_steps": 1}),
    "vanilla_dot": (Vanilla, {}),
    "closed_form": (
        LiMAML,
        {"adaptation": "gauss-newton", "inner_steps": 2, "unadapted_loss_weight": 1.0},
    ),
}


def model(name="limaml_n1", params=None, steps_per_execution=1, **kwargs):
    """A compiled reference model; `params` are weights as {"meta": {W1, b1, ...}, "global":
    {...}}.
    """
    cls, options = ALGORITHMS[name]
    if name in ("vanilla_dot", "closed_form"):
        blocks = (OffsetMetaBlock((128,), 33, "relu"), DotProductGlobalBlock((256, 128), "relu"))
    else:
        blocks = (MLPMetaBlock((128,), 32), MLPGlobalBlock((256, 128)))
    built = cls(*blocks, inner_learning_rate=0.1, **{**options, **kwargs})
    built.compile("adam", steps_per_execution=steps_per_execution)
    built.build({"meta": (None, META), "other": (None, OTHER)})
    built.optimizer.build(built.trainable_variables)
    if params is not None:
        meta, head, block = params["meta"], params["global"], built.global_block
        built.meta_block.network.set_weights([meta[k] for k in ("W1", "b1", "W2", "b2")])
        block.context_layer.set_weights([head["W1"][: META + OTHER], head["b1"]])
        block.embedding_layer.set_weights([head["W1"][META + OTHER :]])
        block.network.set_weights([head[k] for k in ("W2", "b2", "W3", "b3")])
    return built


def samples(data):
    """Converts arrays m, o, y, w to the form of a task batch."""
    return {
        "features": {"meta": tf.constant(data["m"]), "other": tf.constant(data["o"])},
        "label": tf.constant(data["y"]),
        "weight": tf.constant(data["w"]),
    }


def random_samples(rng, tasks, size, padding=0.0):
    """Samples of tasks; a share `padding` of them, up to 0.5, is padding."""
    lengths = size - np.round(2 * padding * size * rng.random(tasks)).astype(int)
    return samples(
        {
            "m": rng.standard_normal((tasks, size, META), dtype=np.float32),
            "o": rng.standard_normal((tasks, size, OTHER), dtype=np.float32),
            "y": (rng.random((tasks, size)) < 0.5).astype(np.float32),
            "w": (np.arange(size) < lengths[:, None]).astype(np.float32),
        }
    )


def schema():
    """Columns of task records of the reference sizes."""
    return Schema(
        name="reference",
        label=Label(name="label"),
        timestamp="timestamp",
        tasks={"member": ("member",)},
        features=(
            Feature(name="m", role="meta", width=META, normalise="none"),
            Feature(name="o", width=OTHER, normalise="none"),
        ),
    )


def random_rows(rng, size):
    """Rows of one task of `schema`."""
    m, o = (rng.standard_normal((size, width), dtype=np.float32) for width in (META, OTHER))
    return [{"m": m[i], "o": o[i], "label": i % 2, "timestamp": i} for i in range(size)]


def training_step(name, params, support, query):
    """A function that takes one outer step on fixed data, as `fit` does, and returns the loss."""
    built = model(name, params)
    batch = {"support": samples(support), "query": samples(query)}
    step = tf.function(built.train_step, autograph=False)
    return lambda: step(batch)["loss"]


def embedder(params, steps):
    """Fine-tunes and embeds a batch of support sets."""
    built = model("limaml_n1", params, fine_tune_steps=steps)
    return tf.function(built.task_embeddings, reduce_retracing=True, autograph=False)
