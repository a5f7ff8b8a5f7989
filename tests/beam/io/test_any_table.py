"""Any table through both commands: no traceback, and every row is used or skipped."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from any_tables import COLUMNS, DEFAULT, START, csv_files, parquet_tables
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from limaml_beam.build_tasks.row_checks import validate
from limaml_beam.build_tasks.settings import TaskSettings, date_fields
from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import read_part
from tfrec_limaml import datasets
from tfrec_limaml.cli import main
from tfrec_limaml.datasets import user_files
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.schema.schema import Feature, Schema

SCHEMA = Schema.from_dict(
    {
        "name": "any",
        "label": "y",
        "timestamp": "t",
        "tasks": {"user": ["u"]},
        "weight": "w",
        "carry": ["c"],
        "features": [
            {"name": "n", "role": "meta"},
            {"name": "i", "dtype": "int64", "encoding": "hash", "buckets": 4},
            {"name": "s", "dtype": "string", "encoding": "hash", "buckets": 4},
            {"name": "v", "width": 2},
        ],
        "split": {"validation_start": "2024-01-05", "test_start": "2024-01-08"},
    }
)
#: With a multi-valued feature, and one that is a partition column.
WIDE = SCHEMA.replace(
    features=(
        *SCHEMA.features,
        Feature(name="m", dtype="string", encoding="hash", buckets=4, separator="|"),
        Feature(name="p", dtype="string", encoding="hash", buckets=4),
    )
)


def through_both(path: Path, text: TextFormat = DEFAULT) -> None:
    """Reads a file as both commands do, and compares what they say."""
    try:
        table = user_files.read_table(path, text, max_malformed=1.0)
        rows = len(table.frame) + sum(table.malformed.values())
    except LimamlError:
        rows = None
    how = TaskSettings(definitions=("user",), **date_fields(SCHEMA))
    read = used = skipped = malformed = 0
    try:
        for part in read_part((str(path), None), (*COLUMNS, "p"), 3, text):
            block, reasons, counts = validate(WIDE, how, {}, part.table)
            read += part.count
            malformed += len(part.bad)
            used += block.num_rows
            skipped += len(part.bad) + sum(
                n for name, n in counts.items() if name.startswith("skipped:")
            )
            assert (reasons == "").sum() == block.num_rows
    except SourceError:
        return
    assert read == used + skipped
    assert rows in (None, read)
    schema = path.parents[1] / "s.yaml"
    for call in (
        lambda: datasets.prepare_own(schema, path, schema.parent / "raw", text=text),
        lambda: datasets.prepare_own(schema, path.parent, schema.parent / "raw2", text=text),
        lambda: datasets.describe(path, text=text),
        lambda: datasets.describe(path, schema=schema, text=text),
    ):
        try:
            card = call()
        except LimamlError:
            continue
        assert card["rows"] + sum(card["dropped"].values()) == read


@pytest.fixture(scope="module")
def folder():
    path = Path(tempfile.mkdtemp())
    WIDE.save(path / "s.yaml")
    yield path / "p=x%20y"
    shutil.rmtree(path)


def clean(folder):
    """An empty folder, which is a partition."""
    for name in (folder, folder.parent / "raw", folder.parent / "raw2"):
        shutil.rmtree(name, ignore_errors=True)
    folder.mkdir()


ALWAYS = settings(
    deadline=None, max_examples=30, suppress_health_check=list(HealthCheck), derandomize=True
)


@ALWAYS
@given(file=csv_files())
@example(file=(b"y,t,u,w,c,n,i,s,v,m\n", DEFAULT))
@example(file=(b'\xef\xbb\xbf"y",t,u,w,c,n,i,s,v,m\n1,2,3,4,5,6,7,8,9,0\n', DEFAULT))
def test_no_text_file_ends_in_a_traceback_and_every_row_is_accounted_for(folder, file):
    clean(folder)
    (folder / "x.csv").write_bytes(file[0])
    through_both(folder / "x.csv", file[1])


@ALWAYS
@given(table=parquet_tables())
def test_no_parquet_file_ends_in_a_traceback_and_every_row_is_accounted_for(folder, table):
    clean(folder)
    pq.write_table(table, folder / "x.parquet")
    through_both(folder / "x.parquet")


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    content=st.binary(max_size=200),
    name=st.sampled_from(["x.csv", "x.parquet", "x.csv.gz", "x.csv.zst", "x.csv.bz2"]),
)
def test_no_bytes_end_in_a_traceback(folder, content, name):
    clean(folder)
    (folder / name).write_bytes(content)
    through_both(folder / name)


def test_whole_runs_of_both_commands_use_and_skip_the_same_rows(tmp_path, capsys):
    draw = np.random.default_rng(0)
    lines = ["y;t;u;w;c;n;i;s;v"]
    for n in range(400):
        cells = [
            str(n % 2), str(START + n * 2_000_000), f"u{draw.integers(9)}", "1", "0.5", "True",
            str(2**60 + n), "NULL", "[1, 2.5]",
        ]  # fmt: skip
        lines.append(";".join(cells))
    lines[10] += ";"  # another number of fields
    lines[20] = lines[20].replace(";1;0.5;", ";-1;0.5;")  # no weight
    lines[30] = lines[30].replace("True", "n/a")  # filled
    lines[40] = ";".join(["1", "soon", "u1", "1", "0.5", "1", "1", "x", "[1, 2]"])
    lines[50] = ";".join(["1", str(START), "k" * 600, "1", "0.5", "1", "1", "x", "[1, 2]"])
    (tmp_path / "LOG.TSV").write_text("\n".join(lines))
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SCHEMA.to_dict()))
    direct = ["--schema", f"{tmp_path}/s.yaml", "--interactions", f"{tmp_path}/LOG.TSV"]
    assert main(["datasets", "prepare", *direct, "--output", f"{tmp_path}/raw"]) == 0
    for name, arguments in {"via": [f"{tmp_path}/raw"], "direct": direct}.items():
        assert main(["prepare", *arguments, "--output", f"{tmp_path}/{name}", "--shards", "1"]) == 0
    via, direct = (
        json.loads((tmp_path / name / "data_card.json").read_text()) for name in ("via", "direct")
    )
    assert direct["rows"]["read"] == 400
    assert direct["rows"]["used"] == via["rows"]["used"] == 396
    assert {name: n for name, n in direct["rows"]["skipped"].items() if n} == {
        "invalid_timestamp": 1,
        "invalid_weight": 1,
        "key_too_long:user": 1,
        "malformed_row:number_of_fields": 1,
    }
    assert direct["filled"] == via["filled"] == {"n": 1, "s": 397}
    letters = [
        json.loads(line)
        for file in (tmp_path / "direct" / "dead_letter").glob("*.jsonl")
        for line in file.read_text().splitlines()
    ]
    assert {letter["reason"]: letter.get("line") for letter in letters}[
        "malformed_row:number_of_fields"
    ] == 11
    records = [
        (tmp_path / name / "user" / "recent-00000-of-00001.tfrecord.gz").read_bytes()
        for name in ("via", "direct")
    ]
    assert records[0] == records[1]
