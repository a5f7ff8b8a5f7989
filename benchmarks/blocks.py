"""Times an outer step of LiMAML with every block, compared with a vanilla step of the same blocks.

    python benchmarks/blocks.py [--json] [--rounds 5] [--blocks mlp id ...] [--tasks 128]

The reference work (128 tasks x (24 + 8) samples, one second-order inner step) with an ID per task
and one per item. LiMAML and vanilla alternate, round by round; figures are medians, the ratio the
median of the rounds' ratios.

Keys: `meta` and `global`; in both, by the name of the block, `limaml_ms`, `vanilla_ms` and `ratio`.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import reference_work as work
import tensorflow as tf
from command_line import parser_of, positive

from tfrec_limaml import LiMAML, Vanilla, blocks

SUPPORT, QUERY, STEPS = 24, 8, 4
IDS = {"user": 10_000, "item": 5_000}
SHAPES = {"meta": (None, work.META), "other": (None, work.OTHER), "user": (None,), "item": (None,)}
ITEM = {"embeddings": {"item": (IDS["item"], 16)}}


def _keras_stack():
    layers = [
        keras.layers.Dense(128, "relu"),
        keras.layers.LayerNormalization(),
        keras.layers.Dense(32),
    ]
    return blocks.KerasMetaBlock(keras.Sequential(layers), 32)


META_BLOCKS = {
    "mlp": lambda: blocks.MLPMetaBlock((128,), 32),
    "id": lambda: blocks.IDEmbeddingMetaBlock("user", IDS["user"], 32),
    "features+id": lambda: blocks.FeaturesAndIDMetaBlock(
        "user", IDS["user"], 16, hidden_units=(128,), embedding_dim=32
    ),
    "transformer": lambda: blocks.TransformerMetaBlock((128,), 32),
    "keras, dense": lambda: blocks.KerasMetaBlock(
        keras.Sequential([keras.layers.Dense(128, "relu"), keras.layers.Dense(32)]), 32
    ),
    "keras, with layer normalisation": _keras_stack,
}
GLOBAL_BLOCKS = {
    "mlp": lambda: blocks.MLPGlobalBlock((256, 128), **ITEM),
    "wide_and_deep": lambda: blocks.WideAndDeepGlobalBlock(
        (256, 128), {"item": IDS["item"]}, **ITEM
    ),
    "dcn": lambda: blocks.DCNGlobalBlock((256, 128), **ITEM),
    "dlrm": lambda: blocks.DLRMGlobalBlock((256, 128), {"item": IDS["item"]}),
}


def _samples(rng, tasks, size):
    samples = work.random_samples(rng, tasks, size)
    users = np.repeat(rng.integers(1, IDS["user"], tasks)[:, None], size, 1)
    ids = {"user": users, "item": rng.integers(1, IDS["item"], (tasks, size))}
    return {
        **samples,
        "features": {
            **samples["features"],
            **{name: tf.constant(value, tf.int32) for name, value in ids.items()},
        },
    }


def _step(algorithm, meta_block, global_block, batch):
    model = algorithm(meta_block, global_block, inner_learning_rate=0.1)
    model.compile("adam")
    model.build(dict(SHAPES))
    model.optimizer.build(model.trainable_variables)
    step = tf.function(model.train_step, autograph=False)

    def run():
        started = time.perf_counter()
        for _ in range(STEPS):
            loss = step(batch)["loss"]
        loss.numpy()
        return (time.perf_counter() - started) / STEPS

    run()
    return run


def measure(rounds, tasks, names):
    """``{"meta": {name: {...}}, "global": {...}}`` of the blocks in `names`, with milliseconds and
    the ratio.
    """
    rng = np.random.default_rng(0)
    batch = {"support": _samples(rng, tasks, SUPPORT), "query": _samples(rng, tasks, QUERY)}
    result = {"meta": {}, "global": {}}
    pairs = [("meta", name, block, GLOBAL_BLOCKS["mlp"]) for name, block in META_BLOCKS.items()]
    pairs += [("global", name, META_BLOCKS["mlp"], block) for name, block in GLOBAL_BLOCKS.items()]
    for kind, name, meta_block, global_block in pairs:
        if name not in names:
            continue
        steps = [
            _step(algorithm, meta_block(), global_block(), batch) for algorithm in (LiMAML, Vanilla)
        ]
        limaml, vanilla = zip(*([step() for step in steps] for _ in range(rounds)), strict=True)
        result[kind][name] = {
            "limaml_ms": round(1e3 * statistics.median(limaml), 2),
            "vanilla_ms": round(1e3 * statistics.median(vanilla), 2),
            "ratio": round(
                statistics.median(a / b for a, b in zip(limaml, vanilla, strict=True)), 3
            ),
        }
        print(f"{kind} block {name}: {result[kind][name]}", file=sys.stderr)
    return result


def main():
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--tasks", type=positive, default=128, help="of a batch")
    names = sorted({*META_BLOCKS, *GLOBAL_BLOCKS})
    parser.add_argument("--blocks", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    result = measure(args.rounds, args.tasks, args.blocks)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{'block':40} {'limaml ms':>10} {'vanilla ms':>11} {'ratio':>7}")
    for kind, times in result.items():
        for name, row in times.items():
            print(
                f"{kind + ': ' + name:40} {row['limaml_ms']:10.2f} {row['vanilla_ms']:11.2f} "
                f"{row['ratio']:7.2f}"
            )


if __name__ == "__main__":
    main()
