"""Folders whose names are columns: read by both commands, and only the days of a window."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from lake import DAYS, SCHEMA, lists, rows_of

from limaml_beam.build_tasks.settings import parse_time
from limaml_beam.io import sources
from limaml_beam.io.sources import read_tables
from tfrec_limaml.cli import main
from tfrec_limaml.datasets import partitions, user_files
from tfrec_limaml.errors import LimamlError, SchemaError


def write_lake(folder: Path) -> Path:
    """``day=.../land=.../part-0.parquet``, with what Spark leaves beside it."""
    for day in DAYS:
        for land, name in (("de", "land=de"), (None, f"land={partitions.DEFAULT_PARTITION}")):
            place = folder / f"day={day.date()}" / name
            place.mkdir(parents=True)
            frame = rows_of(day, land or "none")
            table = pa.table(
                {name: frame[name] for name in ("y", "t", "u")} | {"tags": lists(list(frame.tags))}
            )
            pq.write_table(table, place / "part-0.parquet")
            (place / ".part-0.parquet.crc").write_bytes(b"crc")
    (folder / "_SUCCESS").touch()
    (folder / "_temporary" / "0").mkdir(parents=True)
    (folder / "_temporary" / "0" / "part-1.parquet").write_bytes(b"half a file")
    return folder


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return write_lake(tmp_path_factory.mktemp("lakes") / "lake")


@pytest.fixture
def schema(tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SCHEMA))
    return tmp_path / "s.yaml"


def prepare(schema, lake, output, *options):
    files = ["--schema", str(schema), "--interactions", str(lake)]
    assert main(["prepare", *files, "--output", str(output), "--shards", "1", *options]) == 0
    return json.loads((output / "data_card.json").read_text())


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("lake/day=2026-01-01/part-0.parquet", {"day": "2026-01-01"}),
        ("s3://b/a=1/b%3Dc=x%2Fy%20z/p.csv", {"a": "1", "b=c": "x/y z"}),
        ("lake/land=__HIVE_DEFAULT_PARTITION__/p.csv", {"land": None}),
        ("lake/land=/p.csv", {"land": None}),
        ("lake/=x/day=1=2/p=q.csv", {"day": "1=2"}),
        ("plain/x.csv", {}),
    ],
)
def test_folders_are_columns_with_decoded_names_and_values(path, values):
    assert partitions.partition_values(path) == values


def test_a_partition_column_of_two_folders_is_refused():
    with pytest.raises(SchemaError, match=r"two folders of a=1/a=2/x.csv name .* 'a'"):
        partitions.partition_values("a=1/a=2/x.csv")


@pytest.mark.parametrize(
    ("path", "marker"),
    [
        ("part-0.parquet", False),
        ("_SUCCESS", True),
        (".part-0.parquet.crc", True),
        ("part-0.parquet.crc", True),
        ("_temporary/0/part-0.parquet", True),
        ("_delta_log/0.json", True),
        ("_day=1/part-0.parquet", False),
        ("_day=1/_metadata", True),
    ],
)
def test_what_engines_leave_beside_their_data_is_no_data(path, marker):
    assert partitions.is_marker(path) is marker


@pytest.mark.parametrize(
    ("values", "first", "end"),
    [
        ({"day": "2026-01-31"}, "2026-01-31", "2026-02-01"),
        ({"dt": "20260131", "hour": "3"}, "2026-01-31", "2026-02-01"),
        ({"year": "2026", "month": "1", "day": "31"}, "2026-01-31", "2026-02-01"),
        ({"year": "2026", "month": "12"}, "2026-12-01", "2027-01-01"),
        ({"year": "2026"}, "2026-01-01", "2027-01-01"),
    ],
)
def test_the_days_of_a_partition_are_read_from_its_columns(values, first, end):
    assert partitions.span(values) == (parse_time(first), parse_time(end))


@pytest.mark.parametrize(
    "values",
    [{"day": "3"}, {"day": None}, {"birthday": "2026-01-01"}, {"year": None}, {"date": "20261399"}],
)
def test_other_partitions_name_no_day(values):
    assert partitions.span(values) is None


def test_both_commands_read_a_partitioned_folder_with_its_columns(lake, schema, tmp_path):
    direct = prepare(schema, lake, tmp_path / "direct")
    arguments = ["--schema", str(schema), "--interactions", str(lake)]
    raw = tmp_path / "raw"
    assert main(["datasets", "prepare", *arguments, "--output", str(raw)]) == 0
    card = json.loads((raw / "data_card.json").read_text())
    assert (card["source"]["read"], card["source"]["markers"]) == (16, 18)
    frame = pd.read_parquet(raw / "interactions.parquet")
    assert frame["land"].fillna("").value_counts().to_dict() == {"de": 32, "": 32}
    assert set(frame["tags"].dropna()) == {"x|y", "", "de", "none"}
    assert direct["files"]["interactions"] == {
        "read": 16, "empty": [], "markers": 18, "outside_dates": 0,
    }  # fmt: skip
    assert direct["rows"]["used"] == 64
    assert direct["filled"] == {"land": 32, "tags": 16}
    via = tmp_path / "via"
    assert main(["prepare", str(raw), "--output", str(via), "--shards", "1"]) == 0
    for name in ("recent", "train", "validation", "test"):
        file = f"user/{name}-00000-of-00001.tfrecord.gz"
        assert (via / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()
    statistics = json.loads((via / "statistics.json").read_text())
    assert sorted(statistics["features"]["tags"]["vocabulary"]) == ["de", "none", "x", "y"]


def test_a_nightly_run_opens_only_the_days_of_its_window(
    lake, schema, tmp_path, monkeypatch, capsys
):
    opened = set()
    real = sources.open_file
    monkeypatch.setattr(sources, "open_file", lambda path: (opened.add(path), real(path))[1])
    window = ["--recent-only", "--window-days", "2", "--window-end", "2026-01-07"]
    card = prepare(schema, lake, tmp_path / "night", *window)
    days = {path.split("day=")[1][:10] for path in opened}
    # 5 and 6 January, and a day on either side for time zones.
    assert days == {"2026-01-04", "2026-01-05", "2026-01-06", "2026-01-07"}
    assert card["files"]["interactions"]["read"] == 8
    assert card["files"]["interactions"]["outside_dates"] == 8
    assert card["rows"]["used"] == 16
    assert "8 files not opened: partitions of days outside the dates" in capsys.readouterr().out
    pattern = f"{lake}/day=*/land=*/part-*.parquet"
    whole = prepare(schema, pattern, tmp_path / "whole", *window, "--all-partitions")
    assert len(opened) == whole["files"]["interactions"]["read"] == 16
    assert whole["rows"]["used"] == 16


def test_records_are_those_of_a_run_that_reads_everything(lake, schema, tmp_path, monkeypatch):
    window = ["--window-days", "2", "--test-end", "2026-01-08"]
    pruned = prepare(schema, lake, tmp_path / "pruned", *window)
    monkeypatch.setattr(partitions, "span", lambda values: None)
    whole = prepare(schema, lake, tmp_path / "whole", *window)
    assert (pruned["files"]["interactions"]["read"], whole["files"]["interactions"]["read"]) == (
        14,
        16,
    )
    assert pruned["rows"]["used"] == whole["rows"]["used"]
    for name in ("recent", "train", "validation", "test"):
        file = f"user/{name}-00000-of-00001.tfrecord.gz"
        assert (tmp_path / "pruned" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_window_without_any_partition_is_an_error_that_says_so(lake, schema, tmp_path, capsys):
    command = ["prepare", "--schema", str(schema), "--interactions", str(lake)]
    command += ["--output", str(tmp_path / "x"), "--recent-only", "--window-days", "2"]
    assert main([*command, "--window-end", "2025-01-01"]) == 2
    text = "all 16 files are partitions of days outside 2024-12-30 to 2025-01-01"
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "dates", "text"),
    [
        (
            ["day=2026-01-04/x.csv"],
            (parse_time("2026-02-01T12:00"), 2**62),
            "no file in the dates matches .*: the only file is a partition of days before "
            "2026-02-01T12:00:00$",
        ),
        (
            ["day=2026-01-04/x.csv", "day=2026-02-04/empty.csv"],
            (-(2**62), parse_time("2026-01-01")),
            "all 2 files are partitions of 2026-01-01 or later$",
        ),
        (
            ["day=2026-01-04/x.csv", "empty.csv"],
            (parse_time("2026-02-01"), parse_time("2026-02-03")),
            r"no file with data \(empty: .*empty.csv'\]\) in the dates matches .*: 1 file is a "
            "partition of days outside 2026-02-01 to 2026-02-03",
        ),
    ],
)
def test_files_of_other_days_are_named_with_the_dates(tmp_path, files, dates, text):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("" if "empty" in name else "a\n1\n")
    with pytest.raises(LimamlError, match=text):
        sources.Source.match("interactions", str(tmp_path), dates=dates)


def test_a_column_of_the_file_itself_comes_before_its_folder(tmp_path):
    place = tmp_path / "day=2026-01-01"
    place.mkdir()
    (place / "x.csv").write_text("day,a\nMonday,1\n")
    (table,) = [t for t in read_tables((f"{place}/x.csv", None), ["day", "a"], 9) if t.num_rows]
    assert table["day"].to_pylist() == ["Monday"]
    assert user_files.read_table(place / "x.csv").frame["day"].tolist() == ["Monday"]


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_partition_columns_alone_have_a_value_for_each_row(tmp_path, name):
    place = tmp_path / "land=de"
    place.mkdir()
    frame = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    (frame.to_parquet if "parquet" in name else frame.to_csv)(place / name, index=False)
    tables = read_tables((f"{place}/{name}", None), ["land"], 9)
    assert [value for table in tables for value in table["land"].to_pylist()] == ["de", "de"]
