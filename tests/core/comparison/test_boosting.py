"""LightGBM as a rival, without and with IDs."""

from __future__ import annotations

import types

import numpy as np
import pytest
from toys import toy_schema, toy_statistics

from tfrec_limaml.comparison import boosting
from tfrec_limaml.comparison.boosting import lightgbm, lightgbm_ids
from tfrec_limaml.comparison.rows import Rows
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

pytest.importorskip("lightgbm")


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(boosting, "ROUNDS", 40)


ITEMS = 20
SCHEMA = toy_schema(
    Feature(name="hour", role="meta", normalise="none"),
    Feature(name="item", dtype="int64", encoding="vocabulary", embedding_width=2),
    label="clicked",
    tasks={"member": ("member",)},
)
STATISTICS = toy_statistics({"item": {"vocabulary": list(range(ITEMS)), "counts": [1] * ITEMS}})


def rows(rng, count, clicked):
    columns = {"hour": rng.uniform(0, 24, count), "item": rng.integers(ITEMS, size=count)}
    label = (rng.random(count) < np.where(clicked(columns), 0.9, 0.1)).astype(np.float32)
    zeros = np.zeros(count, np.int64)
    return Rows(
        label, np.ones(count), zeros, np.array([b"m"] * count), zeros, zeros, zeros, columns
    )


def data(clicked):
    rng = np.random.default_rng(0)
    parts = {name: rows(rng, 3000, clicked) for name in ("train", "validation", "test")}
    return types.SimpleNamespace(encoder=FeatureEncoder(SCHEMA, STATISTICS), **parts)


def test_trees_find_what_is_not_linear_in_a_number():
    world = data(lambda columns: (columns["hour"] > 8) & (columns["hour"] < 16))
    outcome = lightgbm(world, 1)
    assert auc(world.test.label, outcome.served) > 0.85  # the best possible is about 0.89
    assert abs(outcome.val_auc - auc(world.test.label, outcome.served)) < 0.03
    assert outcome.settings["trees"] >= 1


def test_only_the_rival_with_ids_knows_single_items():
    world = data(lambda columns: columns["item"] % 3 == 0)
    assert auc(world.test.label, lightgbm(world, 1).served) < 0.55
    assert auc(world.test.label, lightgbm_ids(world, 1).served) > 0.85
