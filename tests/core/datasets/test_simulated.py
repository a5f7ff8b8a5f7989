import numpy as np
import pandas as pd
import pytest

from tfrec_limaml import datasets
from tfrec_limaml.datasets import simulated_interactions
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.columns import DAY_MS
from tfrec_limaml.schema.schema import Schema, parse_time


def auc(label, score):
    ranks = pd.Series(score).rank().to_numpy()
    ups = int(label.sum())
    return (ranks[label == 1].sum() - ups * (ups + 1) / 2) / (ups * (len(label) - ups))


@pytest.fixture(scope="module")
def world():
    return simulated_interactions.simulate(members=1500, seed=3, days=40)


@pytest.fixture(scope="module")
def test_start():
    return int((simulated_interactions.START + pd.Timedelta(days=32)).timestamp() * 1000)


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    first, members = simulated_interactions.simulate(members=50, seed=1, days=12)
    again, members_again = simulated_interactions.simulate(members=50, seed=1, days=12)
    other, _ = simulated_interactions.simulate(members=50, seed=2, days=12)
    pd.testing.assert_frame_equal(first, again)
    pd.testing.assert_frame_equal(members, members_again)
    assert not first.bayes_probability.equals(other.bayes_probability)


def test_the_known_probability_is_calibrated_everywhere(world):
    frame, _ = world
    for _, rows in frame.groupby(pd.qcut(frame.bayes_probability, 8)):
        spread = np.sqrt((rows.bayes_probability * (1 - rows.bayes_probability)).sum()) / len(rows)
        assert abs(rows.clicked.mean() - rows.bayes_probability.mean()) < 4 * spread


def test_activity_follows_zipfs_law(world):
    frame, _ = world
    sizes = np.sort(frame.member_id.value_counts().to_numpy())[::-1]
    ranks = np.arange(1, len(sizes) + 1)
    body = slice(
        5, int(0.8 * len(sizes))
    )  # without the cap at the top and the dormant at the bottom
    slope = np.polyfit(np.log(ranks[body]), np.log(sizes[body]), 1)[0]
    assert slope == pytest.approx(-0.35, abs=0.06)
    assert 25 <= np.median(sizes) <= 35


def test_some_members_are_first_seen_in_the_test_period(world, test_start):
    frame, _ = world
    first = frame.groupby("member_id").timestamp.min()
    assert 0.03 < (first >= test_start).mean() < 0.10


def test_some_members_fall_silent_and_half_of_them_come_back(world, test_start):
    frame, _ = world
    gap = (frame.timestamp >= test_start - 20 * DAY_MS) & (frame.timestamp < test_start)
    before = set(frame.member_id[frame.timestamp < test_start - 20 * DAY_MS])
    after = set(frame.member_id[frame.timestamp >= test_start])
    silent = before - set(frame.member_id[gap])
    assert 0.06 < len(silent) / 1500 < 0.14
    assert 0.3 < len(silent & after) / len(silent) < 0.7


def test_items_are_published_before_they_are_sent(world):
    frame, _ = world
    assert (frame.item_age_hours >= 0).all()
    assert frame.hour.between(0, 23).all()
    assert (pd.to_datetime(frame.timestamp, unit="ms").dt.hour == frame.hour).all()
    assert (pd.to_datetime(frame.timestamp, unit="ms").dt.weekday == frame.weekday).all()


def test_a_members_own_clicks_tell_what_the_profile_does_not(world, test_start):
    """Past clicks on a member's topics add to the best use of the profile, and nothing beats the
    known probability.
    """
    frame, members = world
    late = (frame.timestamp >= test_start).to_numpy()
    past = frame[~late]
    rate = past.clicked.mean()

    def smoothed(keys):
        sums = (
            past.groupby(keys)
            .clicked.agg(["sum", "count"])
            .reindex(frame.set_index(keys).index)
            .fillna(0.0)
        )
        return ((sums["sum"] + 10 * rate) / (sums["count"] + 10)).to_numpy()

    frame = frame.merge(members, on="member_id", how="left")
    past = frame[~late]
    seen = (
        np.log(smoothed(["industry", "topic"]))
        + np.log(smoothed(["notification_type"]))
        + 0.1 * frame.item_quality
    )
    own = seen + np.log(smoothed(["member_id"])) + np.log(smoothed(["member_id", "topic"]))
    label = frame.clicked.to_numpy()[late]
    best = auc(label, frame.bayes_probability[late])
    assert auc(label, own[late]) > auc(label, seen[late]) + 0.02
    assert 0.78 < best < 0.86
    assert best > auc(label, own[late]) + 0.05


def test_the_prepared_world_carries_the_probability_but_never_as_a_feature(tmp_path):
    card = datasets.prepare(
        "simulated", tmp_path / "raw", settings={"members": 60, "days": 20, "seed": 5}, history=True
    )
    schema = Schema.load(tmp_path / "raw" / "schema.yaml")
    assert schema.carry == ("bayes_probability",)
    assert "bayes_probability" not in {f.name for f in schema.all_features}
    assert card["source"]["seed"] == 5
    assert (
        parse_time(schema.split.test_start) - parse_time(schema.split.validation_start)
        == 2 * DAY_MS
    )
    assert pd.read_parquet(tmp_path / "raw" / "interactions.parquet").item_id.notna().all()
    assert len(pd.read_parquet(tmp_path / "raw" / "members.parquet")) == 60


def test_the_notification_type_is_a_meta_feature_where_tasks_are_keyed_by_it(tmp_path):
    for tasks, role in ((["member"], "other"), (["member", "member_type"], "meta")):
        datasets.prepare(
            "simulated",
            tmp_path / "raw",
            tasks=tasks,
            settings={"members": 40, "days": 12},
            overwrite=True,
        )
        schema = Schema.load(tmp_path / "raw" / "schema.yaml")
        assert next(f.role for f in schema.features if f.name == "notification_type") == role


@pytest.mark.parametrize("settings", [{"members": 3}, {"days": 2}])
def test_a_world_too_small_is_refused(settings, tmp_path):
    with pytest.raises(LimamlError, match="members must be >= 20 and days >= 10"):
        datasets.prepare("simulated", tmp_path / "raw", settings=settings)
