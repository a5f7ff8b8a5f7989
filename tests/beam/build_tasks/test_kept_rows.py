"""The rows that `limaml update` reads beside task records."""

import shutil

import numpy as np
import pyarrow as pa
import pytest

from limaml_beam.build_tasks import kept_rows
from limaml_beam.build_tasks.kept_rows import KeptRows, shard_path
from limaml_beam.rows.columnar import TASK
from tfrec_limaml.cli import main
from tfrec_limaml.errors import LimamlError

ROWS = {"a": [1, 2], "b": [3], "c": [4, 5, 6]}


def write(folder, *chunks):
    with kept_rows.writing(f"{folder}/{shard_path(0)}") as writer:
        for rows in filter(None, chunks):
            counts = np.array([len(values) for values in rows.values()])
            keys = np.repeat(list(rows), counts)
            table = pa.table({TASK: keys, "x": np.concatenate(list(rows.values()))})
            stops = np.cumsum(counts)
            writer.add(table, pa.array(list(rows)), stops - counts, stops)


def read(folder, *keys):
    return {
        batch[TASK][0].as_py(): batch["x"].to_pylist() for batch in KeptRows(folder, 1).read(keys)
    }


def test_the_rows_of_each_task_are_read(tmp_path):
    write(tmp_path, ROWS)
    assert read(tmp_path, "c", "nobody", "a") == {"c": [4, 5, 6], "a": [1, 2]}


def test_the_rows_of_tasks_that_were_written_in_several_chunks_are_read(tmp_path):
    write(tmp_path, {"a": [1, 2], "b": [3]}, {"c": [4, 5, 6]}, {"d": [7]})
    assert read(tmp_path, "a", "b", "c", "d") == {"a": [1, 2], "b": [3], "c": [4, 5, 6], "d": [7]}


def test_rows_of_another_task_with_the_same_hash_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(
        kept_rows.columnar, "stable_hash", lambda keys: np.full(len(keys), 7, np.uint64)
    )
    write(tmp_path, ROWS)
    assert read(tmp_path, "b", "nobody") == {"b": [3]}


@pytest.mark.parametrize("left", [{"a": [1, 2], "c": [4, 5, 6]}, {}])
def test_an_index_of_other_rows_is_refused_and_the_remedy_named(tmp_path, left):
    write(tmp_path, ROWS)
    old = tmp_path / "old"
    shutil.copy(tmp_path / f"{shard_path(0)}.npy", old)
    assert read(tmp_path, "a") == {"a": [1, 2]}
    write(tmp_path, left)
    index = tmp_path / f"{shard_path(0)}.npy"
    new = index.read_bytes()
    shutil.copy(old, index)  # as if killed between the two files
    with pytest.raises(LimamlError, match="run the same `limaml erase` again"):
        read(tmp_path, "a")
    index.write_bytes(new)
    assert read(tmp_path, "a", "b", "c") == left


def test_kept_rows_are_searched_under_the_bare_name_of_their_file(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "member"
    folder.mkdir()
    write(folder, ROWS)
    monkeypatch.chdir(folder)
    (folder / "outputs.yaml").write_text(f"- {shard_path(0)}.arrow\n")
    arguments = ["erase", "a", "--manifest-of-outputs", "outputs.yaml", "--verify"]
    assert main(arguments) == 1
    assert "2 rows" in capsys.readouterr().out
