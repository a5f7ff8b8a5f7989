"""Messages without the columns that only reports use."""

import json

import numpy as np
import pyarrow as pa
import pytest
from two_sided_toy import ROWS as ROWS_OF_TWO_SIDES
from two_sided_toy import SCHEMA, TwoSidedWorld, export_toy
from update_world import END, ROWS, World

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
    report = Updater(Update(work=world.work, store=store, window_end=END)).update_messages(messages)
    store.close()
    return report


def test_a_message_without_a_passthrough_column_is_used_and_one_without_a_feature_is_not(carrying):
    without_feature = {k: v for k, v in World.row("u4", 5.0, 1).items() if k != "x"}
    report = send(carrying, World.row("u3", 5.0, 1), without_feature, carrying.row("u5", 6.0, 1))
    assert report["rows"] == {"read": 3, "used": 2, "skipped": {"unknown_schema": 1}}
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
    report = send(carrying, World.row("u3", 1.0, 4), World.row("u3", 5.0, 1))
    assert report["rows"]["skipped"] == {"duplicate": 1}
    assert carrying.sums("u3") == [(13, 4)]


def test_rows_that_differ_in_a_feature_are_two_interactions(carrying):
    send(carrying, World.row("u3", 5.0, 1))
    other = World.row("u3", 5.0, 1) | {"note": "other", "bonus": 0.5}
    assert send(carrying, other)["rows"]["used"] == 1
    assert carrying.sums("u3") == [(11, 3)]


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
    report = send(world, *(TwoSidedWorld.row("u1", video, 5.0, 1) for video in ("v1", "v2")))
    assert report["rows"] == {"read": 2, "used": 1, "skipped": {"duplicate": 1}}
