"""A small schema, records of tasks on disk, and a model that reads them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from toys import toy_schema, toy_statistics, write_description, write_split

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

DAY = 86_400_000

SCHEMA = toy_schema(
    Feature(name="signal", role="meta", normalise="none"),
    Feature(name="kind", dtype="int64", encoding="vocabulary"),
    label="clicked",
    tasks={"member": ("member",)},
)
STATISTICS = toy_statistics({"kind": {"vocabulary": [0, 1, 2], "counts": [3, 3, 3]}})


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory):
    """Task records of 60 members, five of them new in the test period and five dormant.

    Members 0 to 4 have no history; members 5 to 9 have none in the last 30 days.
    """
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("tasks")

    def record(split, member):
        history = 0 if member < 5 else 4 + member % 3
        query = 0 if split == "train" else 30 if member == 59 else 3
        last = 70 if 5 <= member < 10 else 98
        days = [
            *(last - history + 1 + i for i in range(history)),
            *(100 + 0.1 * i for i in range(query)),
        ]
        rows = [
            {
                "signal": rng.normal(),
                "kind": rng.integers(3),
                "label": rng.integers(2),
                "timestamp": int(day * DAY),
            }
            for day in days
        ]
        return record_format.encode_task(
            SCHEMA, f"m{member}", rows, -1 if split == "train" else history
        )

    for split in ("train", "validation", "test"):
        members = range(5 if split == "train" else 0, 60)
        write_split(folder, "member", split, [record(split, member) for member in members])
    write_description(folder, SCHEMA, STATISTICS)
    return folder


@pytest.fixture
def make_model():
    """``make_model(cls, rate)``: an untrained model whose scores vary; `rate` is the inner rate."""

    def make(cls=LiMAML, rate=0.1, **kwargs):
        keras.utils.set_random_seed(3)
        model = cls(
            MLPMetaBlock((4,), 3, name="meta_block"),
            MLPGlobalBlock((5,), name="global_block"),
            encoder=FeatureEncoder(SCHEMA, STATISTICS, name="feature_encoder"),
            inner_learning_rate=rate,
            fine_tune_steps=2,
            **kwargs,
        )
        model.compile(keras.optimizers.Adam(0.01))
        return model

    return make


@pytest.fixture
def test_tasks(tasks_folder):
    """The test split in the form that `limaml evaluate` reads."""
    from tfrec_limaml.tasks.input_pipeline import task_dataset

    return task_dataset(
        str(tasks_folder / "member" / "test-*"),
        FeatureEncoder(SCHEMA, STATISTICS, name="feature_encoder"),
        16,
        with_keys=True,
    )
