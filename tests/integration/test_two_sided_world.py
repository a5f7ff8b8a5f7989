"""In a world where members and items both have tastes, both sides together beat either alone."""

from __future__ import annotations

import os

import numpy as np
import pytest
from graphs import without_graphs

from tfrec_limaml.evaluation import auc
from tfrec_limaml.models import JointLiMAML
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.training.joint import fill_table
from tfrec_limaml.training.options import TrainOptions
from tfrec_limaml.training.recipes import load_encoder, split_pattern
from tfrec_limaml.training.train import train

OPTIONS = TrainOptions(epochs=1, choose_strength=False, learning_rate=1e-2, warmup_steps=5).replace(
    embedding_dim=9,
    global_units=(32,),
    meta_units=(16,),
    projection_shrinkage=50.0,
    inner_steps=1,
)


#: A seed takes most of a minute: ``LIMAML_SEEDS=3`` compares the gain with its spread too.
SEEDS = int(os.environ.get("LIMAML_SEEDS", "1"))


def scored(folder, task, joint, seed):
    """Test AUC of a model of one definition, or of two, as served."""
    options = OPTIONS.replace(joint_task=joint, seed=seed)
    model = train(folder, options, task=task).model
    side = None
    if isinstance(model, JointLiMAML):
        side = fill_table(model, folder, "recent").pair[0]
    encoder = load_encoder(folder, task)
    rows = model.predict(
        task_dataset(
            split_pattern(folder, task, "test", encoder.schema),
            model.encoder,
            256,
            with_keys=True,
            in_order=False,
            side=side,
        ),
        verbose=0,
    )
    return auc(rows["label"], rows["probability"])


@pytest.mark.slow
def test_both_sides_beat_either_alone(tmp_path, run_limaml):
    gains = []
    for seed in range(SEEDS):
        raw, tasks = tmp_path / f"raw{seed}", tmp_path / f"tasks{seed}"
        world = ("--members", 150, "--catalogue", 40, "--days", 20, "--seed", seed)
        run_limaml(
            "datasets", "prepare", "simulated", *world, "--tasks", "member,item", "--output", raw
        )
        run_limaml("prepare", raw, "--max-samples", 500, "--output", tasks)
        with without_graphs():
            values = [
                scored(tasks, task, joint, seed)
                for task, joint in (("member", "item"), ("member", None), ("item", None))
            ]
        gains.append(values[0] - max(values[1:]))
    assert np.mean(gains) > 0.02
    assert SEEDS == 1 or np.mean(gains) > 2 * np.std(gains, ddof=1)
