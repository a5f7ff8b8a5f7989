"""Messages and files without the columns that only reports use."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from pyarrow import csv
from two_sided_toy import ROWS as ROWS_OF_TWO_SIDES
from two_sided_toy import SCHEMA, TwoSidedWorld, export_toy
from update_world import END, ROWS, World, report

from limaml_beam.build_tasks.kept_rows import KeptRows
from limaml_beam.update.job import Update, Updater
from limaml_beam.update.messages import Message
from limaml_beam.update.state import UpdateState, state_folder
from tfrec_limaml.store import open_store


class CarryingWorld(World):
    """Rows with a passthrough column, as the raw data have it."""

    types = World.types.append(pa.field("bonus", pa.float64()))

    @staticmethod
    def row(user, x, day):
        return World.row(user, x, day) | {"bonus": 0.5}


@pytest.fixture
def carrying(tmp_path, schema, export):
    (tmp_path / "raw").mkdir()
    schema.replace(carry=("bonus",)).save(tmp_path / "raw" / "schema.yaml")
    world = CarryingWorld(tmp_path, export)
    world.write(ROWS)
    assert world.refresh() == 0
    return world


def send(world, *rows):
    """Updates with rows as messages; returns the report."""
    messages = [Message(f"t/0/{n}", json.dumps(row).encode()) for n, row in enumerate(rows)]
    store = open_store(world.store)
    result = Updater(Update(work=world.work, store=store, window_end=END)).update_messages(messages)
    store.close()
    return result


def test_a_message_without_a_passthrough_column_is_used_and_one_without_a_feature_is_not(carrying):
    without_feature = {k: v for k, v in World.row("u4", 5.0, 1).items() if k != "x"}
    result = send(carrying, World.row("u3", 5.0, 1), without_feature, carrying.row("u5", 6.0, 1))
    assert result["rows"] == {"read": 3, "used": 2, "skipped": {"unknown_schema": 1}}
    assert carrying.sums("u3", "u4", "u5") == [(6, 2), (1, 1), (7, 2)]
    assert carrying.letters()[0]["detail"] == "lacks ['x']"


def test_rows_of_messages_without_a_passthrough_column_have_the_columns_of_the_nightly_rows(
    carrying,
):
    send(carrying, World.row("u3", 5.0, 1))
    tasks = carrying.work / "tasks"
    shards = json.loads((tasks / "data_card.json").read_text())["settings"]["shards"]
    (nightly,) = KeptRows(tasks / "user", shards).read(["u3"])
    state = UpdateState(state_folder(carrying.work))
    (updated,) = state.read(["u3"], nightly.schema)
    state.close()
    assert updated.schema == nightly.schema
    np.testing.assert_array_equal(updated["bonus"], np.array([0.5, np.nan], np.float32))


def test_a_message_without_a_passthrough_column_and_its_row_in_the_raw_data_are_one_interaction(
    carrying,
):
    send(carrying, World.row("u3", 5.0, 1), World.row("u3", 6.0, 3))
    carrying.write([*ROWS, ("u3", 5.0, 1)])
    assert carrying.refresh() == 0
    assert carrying.result()["updates"]["newer_than_batch"] == 1
    result = send(carrying, World.row("u3", 1.0, 4), World.row("u3", 5.0, 1))
    assert result["rows"]["skipped"] == {"duplicate": 1}
    assert carrying.sums("u3") == [(13, 4)]


def test_rows_that_differ_in_a_feature_are_two_interactions(carrying):
    send(carrying, World.row("u3", 5.0, 1))
    other = World.row("u3", 5.0, 1) | {"note": "other", "bonus": 0.5}
    assert send(carrying, other)["rows"]["used"] == 1
    assert carrying.sums("u3") == [(11, 3)]


def write_without(world, column, rows, name):
    """A file of rows in the format of its name, without a column; returns its path."""
    path = world.folder / name
    table = pq.read_table(world.write(rows, "all.parquet")).drop_columns([column])
    if path.suffix == ".csv":
        csv.write_csv(table, path)
    elif path.suffix == ".tfrecord":
        with tf.io.TFRecordWriter(str(path)) as writer:
            for row in table.to_pylist():
                writer.write(example(row).SerializeToString())
    else:
        pq.write_table(table, path)
    return str(path)


def example(row):
    """A row as a `tf.train.Example`."""
    kinds = {
        str: ("bytes_list", str.encode),
        int: ("int64_list", int),
        float: ("float_list", float),
    }
    features = {}
    for name, value in row.items():
        kind, convert = kinds[type(value)]
        features[name] = tf.train.Feature(**{kind: {"value": [convert(value)]}})
    return tf.train.Example(features=tf.train.Features(feature=features))


@pytest.mark.parametrize("name", ["new.parquet", "new.csv", "new.tfrecord"])
def test_a_file_without_a_passthrough_column_is_used(carrying, capsys, name):
    capsys.readouterr()
    assert carrying.update(write_without(carrying, "bonus", [("u3", 5.0, 1)], name)) == 0
    assert report(capsys)["rows"] == {"read": 1, "used": 1, "skipped": {}}
    assert carrying.sums("u3") == [(6, 2)]


@pytest.mark.parametrize("name", ["new.parquet", "new.csv", "new.tfrecord"])
def test_a_file_without_a_feature_is_a_dead_letter_that_names_the_feature(carrying, capsys, name):
    capsys.readouterr()
    assert carrying.update(write_without(carrying, "x", [("u3", 5.0, 1)], name)) == 0
    assert report(capsys)["rows"] == {"read": 0, "used": 0, "skipped": {"unknown_schema": 1}}
    assert f"{name} lacks the columns ['x']; it has" in carrying.letters()[0]["detail"]


def test_rows_of_files_with_and_without_a_passthrough_column_are_one_interaction(carrying, capsys):
    rows = [("u3", 5.0, 1), ("u4", 5.0, 1)]
    without = write_without(carrying, "bonus", rows, "new.csv")
    capsys.readouterr()
    assert carrying.update(without, carrying.write(rows[:1], "new.parquet")) == 0
    assert report(capsys)["rows"] == {"read": 3, "used": 2, "skipped": {"duplicate": 1}}
    carrying.write([*ROWS, *rows])
    assert carrying.refresh() == 0
    assert carrying.sums("u3", "u4") == [(6, 2), (6, 2)]
    assert carrying.update(without) == 0
    assert report(capsys)["rows"]["skipped"] == {"duplicate": 2}


class CarryingSides(TwoSidedWorld):
    """Rows of users and videos with a passthrough column."""

    types = TwoSidedWorld.types.append(pa.field("bonus", pa.float64()))

    @staticmethod
    def row(user, video, x, day):
        return TwoSidedWorld.row(user, video, x, day) | {"bonus": 0.5}


def test_rows_of_two_videos_are_two_interactions_of_their_user(tmp_path):
    (tmp_path / "raw").mkdir()
    SCHEMA.replace(carry=("bonus",)).save(tmp_path / "raw" / "schema.yaml")
    world = CarryingSides(tmp_path, export_toy(tmp_path / "export"))
    world.write([*ROWS_OF_TWO_SIDES, ("u1", "v1", 5.0, 1)])
    assert world.refresh() == 0
    result = send(world, *(TwoSidedWorld.row("u1", video, 5.0, 1) for video in ("v1", "v2")))
    assert result["rows"] == {"read": 2, "used": 1, "skipped": {"duplicate": 1}}
