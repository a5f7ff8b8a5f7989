"""Explores with the posterior of the closed form: Thompson sampling of each task's offset.

Needs task records (``limaml prepare``) and a model adapted in closed form (``limaml train``). Run::

    python examples/thompson_sampling.py runs/tasks runs/model/limaml.keras

The first query rows of each task, the same number for all, are ranked twice: under the offset that
is stored (greedy), and under draws from its posterior. The less is known about a task, the wider
its posterior, and the more often the top row changes. Draws use the stored variances, one per
dimension, without the covariances.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfrec_limaml import LiMAML, task_dataset
from tfrec_limaml.training.recipes import split_pattern

#: Query rows of each task that are ranked; tasks with fewer are left out.
CANDIDATES = 4


def explore(model: LiMAML, batch: dict[str, Any], draws: int, seed: int = 1) -> dict[str, Any]:
    """The effect of sampling on the tasks ``[T]`` of a batch that have enough query rows.

    Returns:
        ``history``: support rows of each task ``[T]``; ``known``: the share by which support rows
        reduced the prior's variance, 0 for a new task ``[T]``; ``explored``: the share of draws
        whose top row is not the greedy one ``[T]``.
    """
    enough = tf.math.count_nonzero(batch["query"]["weight"], -1) >= CANDIDATES
    batch = tf.nest.map_structure(lambda v: tf.boolean_mask(v, enough), dict(batch))
    support = batch["support"]
    rows = {name: value[:, :CANDIDATES] for name, value in batch["query"]["features"].items()}
    adapted = model.adapt_tasks(support, model.fine_tune_steps)
    if adapted.variance is None:
        raise SystemExit("the model has no posterior: train one with adaptation 'gauss-newton'")
    offset, deviation = adapted.weights[0], tf.sqrt(adapted.variance)

    def top(offsets: tf.Tensor) -> tf.Tensor:
        return tf.argmax(model.adapted_outputs(adapted._replace(weights=[offsets]), rows), -1)

    greedy, generator = top(offset), tf.random.Generator.from_seed(seed)
    changed = [
        top(offset + deviation * generator.normal(tf.shape(offset), dtype=offset.dtype)) != greedy
        for _ in range(draws)
    ]
    shares = adapted.variance / tf.constant(model.prior_variance(), offset.dtype)
    return {
        "history": tf.math.count_nonzero(support["weight"], -1).numpy(),
        "known": 1 - np.mean(shares, -1),
        "explored": np.mean(changed, 0),
    }


def main() -> None:
    """Prints a line for groups of tasks with short and with long histories."""
    parser = argparse.ArgumentParser(description="Thompson sampling of each task's offset.")
    parser.add_argument("tasks")
    parser.add_argument("model")
    parser.add_argument("--draws", type=int, default=20)
    args = parser.parse_args()
    model = keras.saving.load_model(args.model)
    pattern = split_pattern(args.tasks, model.encoder.task, "test", model.encoder.schema)
    parts = [explore(model, batch, args.draws) for batch in task_dataset(pattern, model.encoder)]
    results = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    edges = np.unique(np.quantile(results["history"], [0, 0.25, 0.5, 0.75, 1.0]))
    lines = ["history      tasks  known  explored"]
    for low, high in itertools.pairwise(edges):
        inside = (results["history"] >= low) & ((results["history"] < high) | (high == edges[-1]))
        lines.append(
            f"{low:5.0f}-{high:<5.0f} {inside.sum():7d} {results['known'][inside].mean():6.2f} "
            f"{results['explored'][inside].mean():9.2f}"
        )
    sys.stdout.write("\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
