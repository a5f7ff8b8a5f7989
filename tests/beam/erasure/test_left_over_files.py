"""Files that killed runs left behind, and files that updates use meanwhile."""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from erasure_world import ERASED, command

from limaml_beam.build_tasks import kept_rows
from limaml_beam.erasure import files_of_kinds, running
from limaml_beam.erasure.erased_keys import ErasedKeys
from limaml_beam.io import staged_output
from limaml_beam.io.folder_lock import UPDATE, is_held
from limaml_beam.rows.columnar import TASK
from limaml_beam.update.dead_letters import write_letters
from tfrec_limaml.cli import main


def test_incomplete_files_of_killed_runs_are_removed_an_hour_later(world, capsys):
    member, *_ = sorted((world / "tasks").rglob("*.tfrecord*"))
    left_over = [member.with_name(f"{dot}{member.name}.partial-0123abcd") for dot in ("", ".")]
    for path in left_over:
        path.write_bytes(member.read_bytes()[:30])
    assert main(command(world, "--json")) == 0
    assert set(map(str, left_over)) <= set(json.loads(capsys.readouterr().out)["not_searched"])
    for path in left_over:
        os.utime(path, (0, 0))
    assert main(command(world, "--verify")) == 0
    assert all(path.exists() for path in left_over)  # a search changes nothing
    assert main(command(world)) == 0
    assert not any(path.exists() for path in left_over)


def test_an_index_that_a_killed_erasure_left_behind_is_made_again(world):
    stem = str(world / "tasks" / "member" / "rows-00000")
    with kept_rows.writing(stem) as writer:
        keys = pa.array([ERASED, "4", "30"])
        table = pa.table({TASK: keys.take(pa.array([0, 0, 1, 2])), "x": [1, 2, 3, 4]})
        writer.add(table, keys, np.array([0, 2, 3]), np.array([2, 3, 4]))
    before = Path(f"{stem}.npy").read_bytes()
    assert main(command(world)) == 0
    complete = Path(f"{stem}.npy").read_bytes()
    assert complete != before
    Path(f"{stem}.npy").write_bytes(before)  # as if killed between the two files
    assert main(command(world)) == 0
    assert Path(f"{stem}.npy").read_bytes() == complete


@pytest.fixture
def locked(tmp_path, monkeypatch):
    """Whether the lock of updates of a work folder was held at each replacement of a file there."""
    work, held = tmp_path / "updated", []
    original = staged_output.staged_file

    @contextlib.contextmanager
    def observed(path):
        with original(path) as file:
            yield file
            held.append(is_held(work, UPDATE))

    for module in (files_of_kinds, kept_rows):
        monkeypatch.setattr(module, "staged_file", observed)
    work.mkdir()
    (work / UPDATE.file).touch()
    return work, held


@pytest.mark.parametrize("place", ["tasks/member", "embeddings/g1/turns/0"])
def test_no_update_reads_rows_and_index_while_they_are_replaced(locked, place):
    work, held = locked
    stem = work / place / "rows-00000"
    stem.parent.mkdir(parents=True)
    keys = pa.array([ERASED, "4"])
    with kept_rows.writing(str(stem)) as writer:
        writer.add(pa.table({TASK: keys, "x": [1, 2]}), keys, np.array([0, 1]), np.array([1, 2]))
    assert held == [False, False]
    assert files_of_kinds.kept_rows(f"{stem}.arrow", ErasedKeys([ERASED]), True) == 1
    assert held == [False, False, True, True]
    assert [len(b) for b in kept_rows.KeptRows(stem.parent, 1).read([ERASED, "4"])] == [1]


def test_dead_letters_that_an_update_writes_before_they_are_replaced_stay(locked, monkeypatch):
    work, held = locked
    without_updates = running.without_updates
    letters = [json.dumps({"reason": "why", "row": {"member": n}}) for n in (int(ERASED), 4, 5)]
    write_letters(work, letters[:2])

    def after_an_update(path):
        write_letters(work, [letters[2], letters[0]])
        return without_updates(path)

    monkeypatch.setattr(running, "without_updates", after_an_update)
    [file] = (work / "updates" / "dead_letter").iterdir()
    assert files_of_kinds.json_lines(str(file), ErasedKeys([ERASED]), True) == 2
    assert file.read_text().splitlines() == letters[1:]
    assert held == [True]
