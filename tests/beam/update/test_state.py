"""The state of updates: an erasure leaves no byte of a member in it, however it ends."""

import os

import lmdb
import numpy as np
import pyarrow as pa
import pytest

from limaml_beam.erasure.erased_keys import ErasedKeys
from limaml_beam.erasure.files_of_kinds import update_state
from limaml_beam.io.folder_lock import UPDATE
from limaml_beam.rows.columnar import TASK, TIME
from limaml_beam.update.state import UpdateState, state_folder

ROWS = pa.table(
    {
        TASK: ["m1", "m1", "zoe@example.com", "zoe@example.com", "m2"],
        TIME: np.arange(5),
        "city": ["Oslo", "Bergen", "Reykjavik", "Akureyri", "Aarhus"],
        "tags": [["a"], ["b", "c"], ["smoked fish"], [], ["d"]],
    }
)
OF_ZOE = (b"zoe@example.com", b"Reykjavik", b"Akureyri", b"smoked fish")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / UPDATE.file).touch()
    return state_folder(tmp_path)


def fill(folder):
    state = UpdateState(folder)
    state.put({"": ROWS}, window_start=0)
    state.close()


def erase(folder, key="zoe@example.com"):
    return update_state(str(folder / "data.mdb"), ErasedKeys([key]), True)


def tasks_of(folder):
    state = UpdateState(folder)
    try:
        return {key: rows["city"].to_pylist() for key, rows in state.tasks().items()}
    finally:
        state.close()


def found(folder):
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return [text for text in OF_ZOE if any(text in content for content in contents)]


def test_no_byte_of_an_erased_task_stays_beside_those_of_its_neighbours(folder):
    fill(folder)
    assert found(folder) == list(OF_ZOE)
    assert erase(folder) == 1
    assert found(folder) == []
    assert tasks_of(folder) == {"m1": ["Oslo", "Bergen"], "m2": ["Aarhus"]}


def test_rows_that_an_earlier_version_stored_with_bytes_of_their_neighbours_lose_them(folder):
    fill(folder)
    [batch] = ROWS.combine_chunks().to_batches()
    with lmdb.open(str(folder)) as environment, environment.begin(write=True) as transaction:
        transaction.put(b"m1", batch.slice(0, 2).serialize().to_pybytes())
    erase(folder)
    assert found(folder) == []
    assert tasks_of(folder)["m1"] == ["Oslo", "Bergen"]


def test_a_task_that_was_removed_before_its_erasure_leaves_no_byte_in_unused_pages(folder):
    fill(folder)
    state = UpdateState(folder)
    state.remove(["zoe@example.com"])
    state.close()
    assert b"Reykjavik" in (folder / "data.mdb").read_bytes()
    assert erase(folder) == 0
    assert found(folder) == []


def test_rows_of_an_erasure_that_was_killed_are_gone_after_the_next(folder):
    fill(folder)
    child = os.fork()
    if child == 0:
        os.replace = os.rename = lambda *paths: os._exit(1)  # before the file is replaced
        erase(folder, "m2")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 1
    erase(folder)
    assert found(folder) == []
    assert not [path for path in folder.iterdir() if path.is_dir()]


@pytest.fixture
def state(folder):
    state = UpdateState(folder)
    yield state
    state.close()


def _rows(key, times, **columns):
    return pa.table({TASK: [key] * len(times), TIME: np.array(times), **columns})


def test_rows_of_another_schema_than_the_nightly_run_s_are_not_read(state):
    state.put({"": _rows("m1", [3, 4])}, window_start=0)
    same = _rows("m1", [3]).schema
    assert [batch.num_rows for batch in state.read(["m1", "m2"], same)] == [2]
    assert [batch.num_rows for batch in state.read(["m1"], None)] == [2]
    other = _rows("m1", [3], city=["Oslo"]).schema
    assert state.read(["m1"], other) == []
    state.put({"": _rows("m2", [5], city=["Oslo"])}, window_start=0)
    assert list(state.tasks()) == ["m2"], "rows of the earlier schema are removed"


def test_a_task_is_due_once_a_row_that_it_was_adapted_to_leaves_the_window(state):
    state.put({"": _rows("m1", [3, 8])}, window_start=0)
    state.put({"": _rows("m2", [1, 9])}, window_start=2)  # its first row had left already
    assert state.due(3) == []
    assert state.due(4) == ["m1"]
    assert sorted(state.due(10)) == ["m1", "m2"]
    state.put({"": _rows("m1", [8])}, window_start=4)
    assert state.due(4) == [], "what was due before is adapted"
    assert sorted(state.due(10)) == ["m1", "m2"]
    state.remove(["m2"])
    assert state.due(10) == ["m1"], "a task that was removed is not adapted again"
