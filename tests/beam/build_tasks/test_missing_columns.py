"""Files without the columns that the schema lists."""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import read_part
from tfrec_limaml.cli import main


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (["p"], r" \(listed under `carry` in the schema; remove it there if you do not need it\);"),
        (["p", "q"], r" \(listed under `carry` .*; remove them there if you do not need them\);"),
        (["click", "p"], r" \(\['p'\] listed under `carry` in the schema; remove it there .*\);"),
        (["click"], ";"),
    ],
)
def test_a_passthrough_column_that_is_missing_need_not_be_in_the_schema(tmp_path, missing, text):
    path = tmp_path / "x.csv"
    path.write_text(",".join({"a", "click", "p", "q"} - set(missing)) + "\n1,2,3\n")
    with pytest.raises(SourceError, match=rf"lacks the columns {re.escape(str(missing))}{text}"):
        next(read_part((str(path), None), ["a", "click", "p", "q"], 9, carry=("p", "q")))


@pytest.mark.parametrize("later", [False, True])
def test_a_job_says_that_a_missing_passthrough_column_may_leave_the_schema(
    tmp_path, shop_schema, shop_frames, write_raw, later, capsys
):
    raw = write_raw(tmp_path / "raw", shop_schema.replace(carry=("p",)), shop_frames(rows=20))
    rows = pq.read_table(raw / "interactions.parquet")
    files = [f"{raw}/0.parquet"] * later + [f"{raw}/interactions.parquet"]
    options = [text for file in files for text in ("--interactions", file)]
    pq.write_table(rows.append_column("p", pa.array([0.5] * len(rows))), f"{raw}/0.parquet")
    command = ["prepare", str(raw), "--output", f"{tmp_path}/tasks", *options]
    assert main(command) == 2
    text = "interactions.parquet lacks the columns ['p'] (listed under `carry` in the schema; "
    assert text in capsys.readouterr().err
