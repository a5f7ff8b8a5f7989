"""Training on two definitions: split times, turns, tables, and no label from the future."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import tensorflow as tf
from graphs import without_graphs
from joint_fixtures import SCHEMA, STATISTICS, JointWorld, joint_model
from toys import write_split

from tfrec_limaml.errors import LimamlError
from tfrec_limaml.evaluation import auc
from tfrec_limaml.features import OTHER_ROW, SIDE
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.input_pipeline import task_dataset
from tfrec_limaml.tasks.record_format import encode_task
from tfrec_limaml.tasks.sides import check_definitions
from tfrec_limaml.training.joint import JointRecords, fill_table
from tfrec_limaml.training.options import TrainOptions

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_graphs")]

USERS, VIDEOS = 40, 20
#: Splits of a schema: by date, and within each user's rows.
SPLITS = {
    "by date": {"validation_start": "2030-01-01", "test_start": "2031-01-01"},
    "within users": {"per_task": (0.6, 0.2, 0.2)},
}


@pytest.fixture(scope="module")
def noise():
    return JointWorld.draw(users=USERS, videos=VIDEOS, rows=1500)


@pytest.fixture(scope="module", params=SPLITS)
def split(request):
    return SPLITS[request.param]


@pytest.fixture(scope="module")
def folder(noise, tmp_path_factory, split):
    return noise.write(tmp_path_factory.mktemp("noise"), **split)


class Reading:
    """The records of a folder with a model, as training reads them in one epoch."""

    def __init__(self, folder, model=None, epoch=0, fraction=(0.4, 0.6)):
        self.encoder = FeatureEncoder(
            SCHEMA.replace(split=type(SCHEMA).load(folder / "schema.yaml").split), STATISTICS
        )
        self.epoch = tf.Variable(epoch, dtype=tf.int64)
        self.records = JointRecords(
            folder,
            ("user", "video"),
            self.encoder,
            self.epoch,
            support_fraction=fraction,
            max_samples=None,
            seed=5,
            episodes=True,
        )
        self.model = model or joint_model(inner_steps=1)
        self.model.compile("sgd")
        self.records.draw_split_times()

    @property
    def moments(self):
        return self.records._split_times.moments.numpy()

    def begin(self):
        self.refresh = self.records.callback(self.model)
        self.refresh.on_epoch_begin(0)
        return self

    @functools.cached_property
    def batches(self):
        return list(self.records.training((8, 5), True, 5))

    @functools.cached_property
    def large_batches(self):
        return list(self.records.training((20, 10), True, 5))

    def query_rows(self):
        """Labels, probabilities and sides of all query rows of the epoch."""
        found = []
        for batch in self.large_batches:
            query = batch["query"]
            mask = query["weight"].numpy() > 0
            outputs = self.model.task_outputs(batch["support"], query)
            columns = [query["label"], outputs, query["features"][SIDE]]
            found.append(np.stack(columns, -1)[mask])
        return np.concatenate(found).T


def weak_model():
    """A weak prior, to learn much of noise."""
    model = joint_model(inner_steps=1)
    model.scaled_log_precision.assign(-0.2 * tf.ones([8]))
    return model


@pytest.fixture(scope="module")
def reading(folder):
    with without_graphs():
        return Reading(folder, weak_model()).begin()


@pytest.fixture(scope="module")
def query_rows(reading):
    """Those of `reading`, scored with the table of the epoch's begin."""
    return reading.query_rows()


def test_batches_of_both_definitions_take_turns_until_one_has_none_left(reading):
    sides = [int(batch["support"]["features"][SIDE][0, 0]) for batch in reading.batches]
    assert sides == [0, 1] * 4 + [0]


def test_a_row_is_query_in_both_definitions_records_or_in_neither(noise, reading):
    found = {(side, part): set() for side in (0, 1) for part in ("support", "query")}
    table_rows = reading.records.side.sides.lookup
    for batch in reading.batches:
        side = int(batch["support"]["features"][SIDE][0, 0])
        for part in ("support", "query"):
            features = batch[part]["features"]
            mask = batch[part]["weight"].numpy() > 0
            for x, z, other in zip(
                features["meta"].numpy()[mask],
                features["other"].numpy()[mask],
                features[OTHER_ROW].numpy()[mask],
                strict=True,
            ):
                found[side, part].add((x.tobytes(), z.tobytes()))
                assert other > 0
    assert int(table_rows.size()) == USERS + VIDEOS
    # Pairs may occur twice: then once in either part.
    assert found[0, "support"] == found[1, "support"]
    assert found[0, "query"] == found[1, "query"]
    pairs = set(zip(noise.user.tolist(), noise.video.tolist(), strict=True))
    assert len(found[0, "support"] | found[0, "query"]) == len(pairs)


def test_split_times_by_date_are_one_moment_and_those_within_users_a_share_of_each(noise, tmp_path):
    folder = noise.write(tmp_path / "date", **SPLITS["by date"])
    (moment,) = set(Reading(folder).moments.tolist())
    assert 0.4 <= (noise.time < moment).mean() <= 0.6
    folder = noise.write(tmp_path / "user", **SPLITS["within users"])
    reading = Reading(folder, fraction=0.5)
    moments = reading.moments
    keys = [f"u{n}" for n in np.unique(noise.user)]
    rows = reading.records.side.own_rows(tf.constant(keys)).numpy()
    for n, row in enumerate(rows):
        times = np.sort(noise.time[noise.user == n])
        assert moments[row] == times[min(-(-len(times) // 2), len(times) - 1)]


def test_an_epoch_s_split_times_follow_from_its_number_and_the_seed(folder):
    split_times = [Reading(folder, epoch=epoch).moments for epoch in (0, 1, 0)]
    np.testing.assert_array_equal(split_times[0], split_times[2])
    assert (split_times[0] != split_times[1]).any()


def test_no_label_of_a_query_row_has_any_part_in_a_score(
    noise, reading, query_rows, tmp_path, split
):
    rows = reading.records.side.own_rows(tf.constant([f"u{user}" for user in noise.user]))
    is_query = noise.time >= reading.moments[rows.numpy()]
    assert 0.2 < is_query.mean() < 0.8
    turned = noise.replace(label=np.where(is_query, 1 - noise.label, noise.label))
    other = Reading(turned.write(tmp_path, **split), weak_model()).begin()
    label, score, _ = query_rows
    turned_label, turned_score, _ = other.query_rows()
    np.testing.assert_array_equal(turned_label, 1 - label)
    np.testing.assert_array_equal(turned_score, score)


def test_labels_of_pure_noise_stay_unpredictable_on_training_query_rows(reading, query_rows):
    label, score, of_side = query_rows
    error = np.sqrt(1 / 3 / len(label))  # standard deviation of the AUC of half of the rows
    for side in (0, 1):
        value = auc(label[of_side == side], score[of_side == side])
        assert value == pytest.approx(0.5, abs=3 * error)
    # With a table that has seen the query rows they would not: the test has power.
    reading.refresh.on_test_begin()
    label, score, of_side = reading.query_rows()
    for side in (0, 1):
        assert auc(label[of_side == side], score[of_side == side]) > 0.5 + 4 * error


def test_labels_of_pure_noise_stay_unpredictable_on_rows_after_those_that_were_adapted_on(
    noise, tmp_path
):
    """As served: the table is made of earlier rows, and so are the users' own offsets."""
    early = noise.replace(**{k: v[:1000] for k, v in vars(noise).items()})
    late = {user: np.flatnonzero(noise.user == user) for user in noise.user[1000:]}
    folder = early.write(tmp_path)
    records = [
        encode_task(
            SCHEMA, f"u{user}", [noise.row(i) for i in rows], int(sum(rows < 1000)), ["video"]
        )
        for user, rows in late.items()
    ]
    test = write_split(folder, "user", "test", records)
    model = joint_model()
    model.compile("sgd")
    model.scaled_log_precision.assign(-0.2 * tf.ones([8]))  # a weak prior, to learn much of noise
    side = fill_table(model, folder, "train").pair[0]
    rows = model.predict(
        task_dataset(str(test), model.encoder, 64, with_keys=True, in_order=False, side=side),
        verbose=0,
    )
    assert len(rows["label"]) == 500
    value = auc(rows["label"], rows["probability"])
    assert value == pytest.approx(0.5, abs=3 * np.sqrt(1 / 3 / len(rows["label"])))


def test_the_table_for_evaluation_is_made_of_all_rows_of_a_split(noise, tmp_path):
    folder = noise.write(tmp_path, ("train", "recent"))
    model = joint_model()
    model.compile("sgd")
    sides = fill_table(model, folder, "recent")
    first = model.table.numpy()
    assert first.shape == (1 + USERS + VIDEOS, 4)
    assert np.abs(first[1:]).min() > 0
    np.testing.assert_array_equal(first[0], 0)
    assert [side.definition for side in sides.pair] == ["user", "video"]
    fill_table(model, folder, "recent")  # from zero again, whatever was there
    np.testing.assert_array_equal(model.table.numpy(), first)
    model.adaptation_strength = 0.0
    fill_table(model, folder, "recent")
    np.testing.assert_array_equal(model.table.numpy(), 0 * first)


def test_records_without_the_other_side_s_keys_are_refused_with_the_remedy(noise, tmp_path):
    folder = noise.write(tmp_path)
    for name in ("user", "video"):
        (file,) = (folder / name).glob("train*")
        with tf.io.TFRecordWriter(str(file), "GZIP") as writer:
            writer.write(encode_task(SCHEMA, "u1", [noise.row(0)]))
    with pytest.raises(LimamlError, match=r"task_key:video.*--task user,video"):
        _ = Reading(folder).batches


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (
            lambda: TrainOptions().replace(joint_task="video", meta_block="mlp"),
            "needs the meta_block 'offset', received 'mlp' with adaptation 'gradient'",
        ),
        (
            lambda: TrainOptions().replace(joint_task="video", prior="encoder"),
            "needs the prior 'zero', received 'encoder'",
        ),
        (
            lambda: TrainOptions(algorithm="vanilla").replace(joint_task="video"),
            "is for the algorithm 'limaml', received 'vanilla'",
        ),
        (
            lambda: check_definitions(
                SCHEMA.replace(tasks={"user": ("user_id",), "fine": ("user_id", "tab")}),
                None,
                "fine",
            ),
            r"'user' \['user_id'\] and 'fine' .* cannot be two sides",
        ),
        (lambda: check_definitions(SCHEMA, None, "item"), "unknown task definition 'item'"),
    ],
)
def test_what_two_definitions_cannot_be_is_refused(refused, said):
    with pytest.raises(LimamlError, match=said):
        refused()
