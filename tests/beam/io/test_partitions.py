"""Folders of part files, partition columns, lists, delimiters and null words: one reader for both
commands.
"""

from __future__ import annotations

import bz2
import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from limaml_beam.build_tasks.settings import parse_time
from limaml_beam.io import sources
from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import Source, read_tables
from tfrec_limaml import datasets
from tfrec_limaml.cli import main
from tfrec_limaml.datasets import part_files, partitions, user_files
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.errors import LimamlError, SchemaError

SCHEMA = {
    "name": "lake",
    "label": {"name": "y"},
    "timestamp": "t",
    "tasks": {"user": ["u"]},
    "features": [
        {"name": "u", "role": "meta", "dtype": "string", "encoding": "hash", "buckets": 8},
        {"name": "tags", "dtype": "string", "encoding": "vocabulary", "separator": "|"},
        {"name": "land", "dtype": "string", "encoding": "vocabulary"},
    ],
    "split": {"validation_start": "2026-01-05", "test_start": "2026-01-07"},
}
DAYS = pd.date_range("2026-01-01", "2026-01-08", tz="UTC")


def lists(values: list[object], kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(values, kind or pa.list_(pa.string()))


def rows_of(day: pd.Timestamp, land: str) -> pd.DataFrame:
    start = day.value // 10**6
    return pd.DataFrame(
        {
            "y": [0, 1, 1, 0],
            "t": [start + hour * 3_600_000 for hour in (1, 9, 15, 23)],
            "u": ["a", "b", "a", "c"],
            "tags": [["x", "y"], [], None, [land]],
        }
    )


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
    assert "in the dates (partitions of other days: 16 files)" in capsys.readouterr().err


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


def compress(name: str, content: bytes) -> bytes:
    if name.endswith(".bz2"):
        return bz2.compress(content)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", ["x.csv.zst", "x.tsv.bz2", "X.CSV-00000-of-00002.ZST"])
def test_compressed_text_files_are_read_by_both_readers(tmp_path, name):
    content = b"a\tb\n" + b"".join(b"%d\tx\n" % n for n in range(200_000))
    (tmp_path / name).write_bytes(compress(name.lower(), content))
    parts = list(read_tables((f"{tmp_path}/{name}", None), ["a", "b"], 65_536))
    assert sum(part.num_rows for part in parts) == 200_000
    assert user_files.read_table(tmp_path / name).frame["a"].iloc[-1] == "199999"


@pytest.mark.parametrize("name", ["x.csv.zst", "x.csv.bz2"])
def test_a_compressed_file_that_is_cut_short_is_named(tmp_path, name):
    content = b"a,b\n" + b"".join(b"%d,%d\n" % (n, n * n) for n in range(50_000))
    (tmp_path / name).write_bytes(compress(name, content)[:-12])
    with pytest.raises(SchemaError, match=rf"cannot read .*{name}"):
        user_files.read_table(tmp_path / name)
    with pytest.raises(SourceError, match=rf"cannot read .*{name}"):
        list(read_tables((f"{tmp_path}/{name}", None), ["a", "b"], 99))


def test_the_delimiter_and_the_null_words_are_those_that_both_commands_are_given(tmp_path):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SCHEMA))
    lines = ["y\x01t\x01u\x01tags\x01land"]
    for n in range(40):
        time = parse_time("2026-01-01") + n * 5 * 3_600_000
        lines.append(
            f"{n % 2}\x01{time}\x01u{n % 3}\x01NULL|a;b\x01" + ("\\N" if n < 9 else "NULL")
        )
    (tmp_path / "x.csv").write_text("\n".join(lines))
    files = ["--schema", f"{tmp_path}/s.yaml", "--interactions", f"{tmp_path}/x.csv"]
    text = ["--delimiter", "\\x01", "--null-word", "\\N"]
    raw, out = tmp_path / "raw", tmp_path / "out"
    assert main(["datasets", "prepare", *files, *text, "--output", str(raw)]) == 0
    assert pd.read_parquet(raw / "interactions.parquet")["land"].isna().sum() == 9
    assert main(["prepare", *files, *text, "--output", str(out)]) == 0
    assert json.loads((out / "data_card.json").read_text())["filled"] == {"land": 9}
    (tmp_path / "x.csv").write_text("\n".join(["y\x01time\x01user\x01a\x01b", *lines[1:]]))
    card = datasets.describe(tmp_path / "x.csv", text=TextFormat("\x01", ("\\N",)))
    assert card["rows"] == 40


@pytest.mark.parametrize("delimiter", ["", "||", "ü", '"', "\n", "a", "7", "\\q1", "\\x"])
def test_a_delimiter_that_cannot_be_one_is_refused_by_name(tmp_path, capsys, delimiter):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    command = ["datasets", "describe", f"{tmp_path}/x.csv", f"--delimiter={delimiter}"]
    assert main(command) == 2
    assert "--delimiter" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "kind", "texts"),
    [
        ([["a", None, "b"], [""], None, ["c|d"]], pa.list_(pa.string()), ["a|b", "", None, None]),
        ([["a"], ["b", "c"]], pa.large_list(pa.string()), ["a", "b|c"]),
        ([["a", "b"], ["c", None]], pa.list_(pa.string(), 2), ["a|b", "c"]),
        ([[2**62 + 1, None], [7]], pa.list_(pa.int64()), [str(2**62 + 1), "7"]),
        ([[True], [False, True]], pa.list_(pa.bool_()), ["true", "false|true"]),
    ],
)
def test_lists_are_multi_valued_features_in_both_readers(tmp_path, values, kind, texts):
    from tfrec_limaml.datasets import columns
    from tfrec_limaml.schema.column_values import as_feature
    from tfrec_limaml.schema.schema import Feature

    pq.write_table(pa.table({"v": pa.array(values, kind)}), tmp_path / "x.parquet")
    frame = user_files.read_table(tmp_path / "x.parquet").frame
    text, counts = columns.to_string(frame["v"], "|")
    assert [None if pd.isna(value) else value for value in text] == texts
    assert sum(counts.values()) == texts.count(None)
    feature = Feature(
        name="v", dtype="string", encoding="hash", buckets=4, separator="|", fill_value="?"
    )
    tables = pa.concat_tables(read_tables((f"{tmp_path}/x.parquet", None), ["v"], 9))
    found, invalid = as_feature(tables["v"], feature)
    assert found.to_pylist() == ["?" if value is None else value for value in texts]
    assert invalid.tolist() == [value is None for value in texts]


def test_describe_proposes_a_list_as_a_multi_valued_feature(tmp_path):
    frame = pd.concat([rows_of(day, "de") for day in DAYS]).reset_index(drop=True)
    frame = frame.rename(columns={"t": "time", "u": "user"})
    frame["ids"] = [[n, n + 1] if n % 2 else [n] for n in range(len(frame))]
    frame["odd"] = [[f"a|{n % 5};{n % 3}"] for n in range(len(frame))]
    frame.to_parquet(tmp_path / "x.parquet")
    card = datasets.describe(tmp_path / "x.parquet", write_schema=tmp_path / "s.yaml")
    features = {f["name"]: f for f in yaml.safe_load(card["schema_yaml"])["features"]}
    assert features["tags"]["separator"] == "|"
    assert features["odd"]["separator"] == ","
    assert features["ids"]["dtype"] == "string"
    assert features["ids"]["separator"] == "|"
    again = datasets.describe(tmp_path / "x.parquet", schema=tmp_path / "s.yaml")
    assert again["rows"] == len(frame)


def test_part_files_may_have_other_types_and_lose_no_digit(tmp_path):
    key = 2**62 + 1
    pq.write_table(pa.table({"k": [key, None], "x": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"k": ["7", str(key)], "x": [0.5, 1.5]}), tmp_path / "b.parquet")
    (tmp_path / "c.csv").write_text("k,extra,x\n8,1,2\n")
    frame = user_files.read_table(tmp_path, needed=["k", "x"]).frame
    assert frame["k"].fillna("").tolist() == [str(key), "", "7", str(key), "8"]
    assert frame["x"].tolist() == ["1", "2", "0.5", "1.5", "2"]
    with pytest.raises(SchemaError, match=r"a.parquet lacks the column 'extra'"):
        user_files.read_table(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": "x\n1\n", "notes.md": "hello"}, "cannot tell the format of .*notes.md"),
        ({"a.csv": "", "_SUCCESS": ""}, r"no file with data below .*a.csv"),
        ({}, "no file with data below"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(LimamlError, match=message):
        part_files.find(tmp_path)


def test_a_pattern_may_mean_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.parquet").mkdir()
        pq.write_table(pa.table({"x": [1]}), tmp_path / f"{name}.parquet" / "part-0.parquet")
    found = [f"{tmp_path}/{name}.parquet/part-0.parquet" for name in ("a", "b")]
    for given in (f"{tmp_path}/*.parquet", str(tmp_path), f"{tmp_path}/"):
        assert list(Source.match("x", given).files) == found
    assert part_files.find(f"{tmp_path}/*.parquet")[0] == found
