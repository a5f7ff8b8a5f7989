"""Files that killed runs left behind."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from erasure_world import ERASED, command

from limaml_beam.build_tasks import kept_rows
from limaml_beam.rows.columnar import TASK
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
