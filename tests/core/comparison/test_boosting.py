"""LightGBM as a rival, without and with IDs."""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
from toys import toy_schema, toy_statistics, write_description, write_split

from tfrec_limaml.comparison import boosting
from tfrec_limaml.comparison.boosting import lightgbm, lightgbm_as_served, lightgbm_ids
from tfrec_limaml.comparison.rivals import Data, logistic_regression
from tfrec_limaml.comparison.rows import Rows
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation.metrics import auc
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks import record_format
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

pytest.importorskip("lightgbm")


@pytest.fixture(autouse=True)
def few_trees(monkeypatch):
    monkeypatch.setattr(boosting, "ROUNDS", 40)


ITEMS = 20
DAY = 86_400_000
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


def test_few_rows_with_a_weak_effect_get_small_trees():
    world = data(lambda columns: columns["hour"] > 12)
    rng = np.random.default_rng(1)
    for name in ("train", "validation", "test"):
        part = rows(rng, 180 if name == "train" else 3000, lambda columns: columns["hour"] > 12)
        swapped = rng.random(len(part.label)) < 0.35
        setattr(world, name, dataclasses.replace(part, label=abs(part.label - swapped)))
    assert lightgbm(world, 1).settings["num_leaves"] == 7


def test_names_that_lightgbm_refuses_are_names_here():
    """A pair of brackets, a quote, and two names that differ by a space only."""
    schema = toy_schema(
        *(
            Feature(name=name, role="meta", normalise="none")
            for name in ('price [EUR], "net"', "a b", "a_b")
        ),
        label="clicked",
        tasks={"member": ("member",)},
    )
    world = data(lambda columns: columns["hour"] > 12)
    for part in (world.train, world.validation, world.test):
        hour = part.columns["hour"]
        part.columns.update({f.name: hour if "[" in f.name else hour * 0 for f in schema.features})
    world.encoder = FeatureEncoder(schema, toy_statistics({}))
    assert auc(world.test.label, lightgbm(world, 1).served) > 0.85


def test_a_schema_of_ids_only_leaves_nothing_for_trees_without_ids():
    schema = toy_schema(
        Feature(name="item", role="meta", dtype="int64", encoding="vocabulary", embedding_width=2),
        label="clicked",
        tasks={"member": ("member",)},
    )
    world = data(lambda columns: columns["item"] % 3 == 0)
    world.encoder = FeatureEncoder(schema, STATISTICS)
    for rival in (lightgbm, logistic_regression):
        with pytest.raises(LimamlError, match="no feature besides IDs"):
            rival(world, 1)
    assert auc(world.test.label, lightgbm_ids(world, 1).served) > 0.85


def test_training_rows_of_one_label_leave_nothing_to_a_regression():
    world = data(lambda columns: columns["hour"] > 12)
    world.train.label[:] = 0
    with pytest.raises(LimamlError, match="all training rows have the same label"):
        logistic_regression(world, 1)


def test_only_the_rival_with_ids_knows_single_items():
    world = data(lambda columns: columns["item"] % 3 == 0)
    assert auc(world.test.label, lightgbm(world, 1).served) < 0.55
    assert auc(world.test.label, lightgbm_ids(world, 1).served) > 0.85


def test_training_rows_as_served_have_the_history_of_the_episodes(tmp_path):
    """Each of 40 members clicks on rows of a `signal` that is stale in the episodes only."""
    rng = np.random.default_rng(0)
    schema = toy_schema(
        Feature(name="signal", role="meta", normalise="none"), tasks={"member": ("member",)}
    )

    def record(member, split, start):
        clicked = rng.integers(2, size=8)
        fresh = split == "train"
        rows = [
            {"signal": c if fresh else 1 - c, "label": c, "timestamp": DAY * (8 * member + i)}
            for i, c in enumerate(clicked)
        ]
        return record_format.encode_task(schema, f"m{member}", rows, start)

    for split in ("train", "validation", "test", "episode-0", "episode-1"):
        start = -1 if split == "train" else 5 if split == "episode-1" else 0
        write_split(tmp_path, "member", split, [record(m, split, start) for m in range(60)])
    write_description(tmp_path, schema, toy_statistics({}))
    world = Data.of(tmp_path)
    assert world.as_served.label.shape == (60 * (8 + 3),)
    assert auc(world.test.label, lightgbm(world, 1).served) < 0.1
    assert auc(world.test.label, lightgbm_as_served(world, 1).served) > 0.9
    for number in range(2):
        for file in (tmp_path / "member").glob(f"episode-{number}-*"):
            file.unlink()
    with pytest.raises(LimamlError, match="holds no episodes; run `limaml prepare --episodes 8`"):
        _ = Data.of(tmp_path).as_served


def test_copies_of_a_row_share_its_weight(tmp_path):
    schema = toy_schema(
        Feature(name="signal", role="meta", normalise="none"), tasks={"member": ("member",)}
    )
    rows = [{"signal": float(i), "label": i % 2, "timestamp": DAY * i} for i in range(8)]
    for split, start in (("episode-0", 2), ("episode-1", 5), ("episode-2", 7)):
        record = record_format.encode_task(schema, "m", rows, start)
        write_split(tmp_path, "member", split, [record])
    write_description(tmp_path, schema, toy_statistics({}))
    served = Data.of(tmp_path).as_served
    total = np.bincount((served.timestamp // DAY).astype(int), served.weight)
    np.testing.assert_allclose(total, [0, 0, 1, 1, 1, 1, 1, 1])


def test_without_ids_there_is_no_rival_with_ids():
    schema = toy_schema(Feature(name="hour", role="meta"), label="clicked")
    encoder = FeatureEncoder(schema, toy_statistics({"hour": {"mean": 0.0, "variance": 1.0}}))
    with pytest.raises(LimamlError, match=r"declares no IDs: .* embedding_width"):
        lightgbm_ids(types.SimpleNamespace(encoder=encoder), 1)
