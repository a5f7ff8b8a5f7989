"""A table of two lines, rows of a small world and runs that scored them."""

from __future__ import annotations

import types

import numpy as np

from tfrec_limaml.comparison.rows import Rows
from tfrec_limaml.reproduction.setups import Setup
from tfrec_limaml.reproduction.table import Line, Ordering, Table
from tfrec_limaml.training.options import TrainOptions

DAY = 86_400_000
SMALL = TrainOptions.paper().replace(
    epochs=1, batch_size=16, meta_units=(4,), global_units=(4,), embedding_dim=3
)
TABLE = Table(
    name="toy",
    title="A toy",
    text="Two lines.",
    reference="vanilla",
    lines=[
        Line(
            label="vanilla",
            setup=Setup(options=SMALL.replace(algorithm="vanilla"), form="unadapted"),
        ),
        Line(label="LiMAML", setup=Setup(options=SMALL), paper={"all": 1.47}),
    ],
    orderings=[Ordering("LiMAML", "vanilla", robust=True)],
)


def world(rows=400, tasks=40):
    rng = np.random.default_rng(0)
    task = np.sort(rng.integers(tasks, size=rows))
    task[:tasks] = np.arange(tasks)
    task = np.sort(task)
    label = rng.integers(2, size=rows).astype(np.float32)
    history = (task % 10).astype(np.int64)
    keys = np.array([f"m{t}".encode() for t in task])
    test = Rows(
        label=label,
        weight=np.ones(rows),
        timestamp=np.full(rows, 100 * DAY) + np.arange(rows),
        task_key=keys,
        task=task,
        history=history,
        last_seen=np.where(history > 0, np.where(task % 4 == 0, 80, 99) * DAY, 0),
        columns={},
    )
    train = types.SimpleNamespace(task_key=keys[history > 0])
    return types.SimpleNamespace(test=test, train=train)


def runs(data, quality, seconds, seeds=(1, 2)):
    return [
        {
            "seed": seed,
            "scores": quality * data.test.label
            + np.random.default_rng(seed).normal(size=len(data.test.label)),
            "val_auc": 0.6 + 0.1 * seed,
            "settings": {"epoch_seconds": seconds * seed},
        }
        for seed in seeds
    ]
