"""Reading files of every format, and saying what is wrong with them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import Source, parts_of_file, read_part, read_tables
from limaml_beam.io.tfrecords import frame_record, read_records
from tfrec_limaml.schema.arrow_keys import as_text
from tfrec_limaml.schema.column_numbers import as_floats, as_integers
from tfrec_limaml.schema.column_times import as_milliseconds
from tfrec_limaml.schema.column_values import as_feature, as_label
from tfrec_limaml.schema.schema import Feature, Label, parse_time


def read(path, columns, batch_rows=100):
    return pa.concat_tables(
        list(read_tables((str(path), None), columns, batch_rows)), promote_options="permissive"
    )


def examples(path: Path, frame: pd.DataFrame) -> None:
    import tensorflow as tf

    def feature(value):
        if isinstance(value, str):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode()]))
        if isinstance(value, list):
            return tf.train.Feature(float_list=tf.train.FloatList(value=value))
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        return tf.train.Feature(
            float_list=tf.train.FloatList(value=[] if value is None else [value])
        )

    options = tf.io.TFRecordOptions(compression_type="GZIP" if path.name.endswith(".gz") else "")
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for row in frame.astype(object).to_dict("records"):
            writer.write(
                tf.train.Example(
                    features=tf.train.Features(feature={k: feature(v) for k, v in row.items()})
                ).SerializeToString()
            )


@pytest.mark.parametrize(
    "name", ["x.csv", "x.csv.gz", "x.parquet", "x.tfrecord", "x.tfrecord-00000-of-00001.gz"]
)
def test_every_format_gives_the_same_values(tmp_path, name):
    frame = pd.DataFrame(
        {"id": [2**60 + 1, 5, 7], "text": ["a,b", "ü", 'say "hi"'], "price": [0.5, None, 2.0]}
    ).astype({"price": object})
    path = tmp_path / name
    if "csv" in name:
        frame.to_csv(path, index=False)
    elif "parquet" in name:
        frame.astype({"price": float}).to_parquet(path)
    else:
        examples(path, frame.where(frame.notna(), None))
    table = read(path, ["text", "id", "price"], batch_rows=2)
    assert table.column_names == ["text", "id", "price"]
    assert as_text(table["text"]).to_pylist() == ["a,b", "ü", 'say "hi"']
    assert as_integers(table["id"])[0].tolist() == [2**60 + 1, 5, 7]
    assert np.isnan(as_floats(table["price"])).tolist() == [False, True, False]


def test_vectors_of_examples_stay_vectors(tmp_path):
    examples(tmp_path / "x.tfrecord", pd.DataFrame({"v": [[1.0, 2.0], [3.0, 4.0]], "n": [1, 2]}))
    array, invalid = as_feature(
        read(tmp_path / "x.tfrecord", ["v", "n"])["v"], Feature(name="v", width=2)
    )
    assert array.to_pylist() == [[1.0, 2.0], [3.0, 4.0]]
    assert not invalid.any()


def test_row_groups_are_read_apart(tmp_path):
    pd.DataFrame({"a": range(10)}).to_parquet(tmp_path / "x.parquet", row_group_size=4)
    parts = parts_of_file(str(tmp_path / "x.parquet"))
    assert [pa.concat_tables(read_tables(p, ["a"], 3))["a"].to_pylist() for p in parts] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def test_a_missing_column_is_named_with_the_file_and_what_it_has(tmp_path):
    for name, write in (
        ("x.parquet", pd.DataFrame.to_parquet),
        ("x.csv", pd.DataFrame.to_csv),
        ("x.tfrecord", lambda f, p: examples(p, f)),
    ):
        write(pd.DataFrame({"clicks": [1], "user": [2]}), tmp_path / name)
        with pytest.raises(
            SourceError, match=rf"{name} lacks the columns \['click'\]; it has .*'clicks'"
        ):
            read(tmp_path / name, ["click", "user"])


def test_damaged_files_are_named(tmp_path):
    frame = pd.DataFrame({"a": range(5000), "b": np.random.default_rng(0).random(5000)})
    frame.to_parquet(tmp_path / "whole.parquet")
    raw = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.parquet").write_text("not parquet at all")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 999)[:-12])
    for name in ("cut.parquet", "text.parquet", "empty.csv", "ragged.csv", "cut.csv.gz"):
        with pytest.raises(SourceError, match=name):
            read(tmp_path / name, ["a", "b"])


def test_truncated_and_damaged_records_are_told_by_their_number(tmp_path):
    frames = [frame_record(b"one"), frame_record(b"two" * 50)]
    path = tmp_path / "x.tfrecord"
    path.write_bytes(b"".join(frames))
    assert list(read_records(str(path))) == [b"one", b"two" * 50]
    path.write_bytes(b"".join(frames)[:-1])
    with pytest.raises(SourceError, match=r"x.tfrecord: record 1 is truncated or damaged"):
        list(read_records(str(path)))
    path.write_bytes(frames[0] + frames[1][:40] + b"?" + frames[1][41:])
    with pytest.raises(SourceError, match="record 1 is truncated or damaged"):
        list(read_records(str(path)))
    path.write_bytes(b"hello, this is no record")
    with pytest.raises(SourceError, match="record 0 has a damaged header"):
        list(read_records(str(path)))
    path.write_bytes(frame_record(b"\xff\xff\xff\xff"))
    with pytest.raises(SourceError, match=r"not a tf.train.Example"):
        read(path, ["a"])


def test_framed_records_are_read_by_tensorflow(tmp_path):
    import tensorflow as tf

    (tmp_path / "x").write_bytes(frame_record(b"") + frame_record(b"abc"))
    assert list(tf.data.TFRecordDataset(str(tmp_path / "x")).as_numpy_iterator()) == [b"", b"abc"]


def test_patterns_without_files_and_unknown_formats_are_refused(tmp_path):
    with pytest.raises(SourceError, match="no file matches"):
        Source.match("interactions", str(tmp_path / "*.parquet"))
    (tmp_path / "x.xlsx").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"cannot tell the format of .*x.xlsx"):
        Source.match("interactions", str(tmp_path / "x.xlsx"))


@pytest.mark.parametrize(
    ("values", "unit", "milliseconds"),
    [
        ([1.5, 2], "s", [1500, 2000]),
        (["1700000000123", None], "ms", [1700000000123, None]),
        ([1_700_000_000_123_999], "us", [1_700_000_000_123]),
        (
            ["2024-01-02", "2024-01-02T00:00:00+08:00", "soon"],
            "iso",
            [1_704_153_600_000, 1_704_124_800_000, None],
        ),
        (pd.to_datetime(["2024-01-02T03:04:05.678"]), "s", [parse_time("2024-01-02T03:04:05.678")]),
        ([float("inf"), float("nan"), 7.0], "ms", [None, None, 7]),
    ],
)
def test_times_of_every_unit_become_milliseconds(values, unit, milliseconds):
    times, invalid = as_milliseconds(pa.array(values, from_pandas=True), unit)
    assert [
        None if bad else time for time, bad in zip(times.tolist(), invalid, strict=True)
    ] == milliseconds


def test_values_that_do_not_fit_are_filled_and_told():
    floats, bad = as_feature(pa.array(["1.5", "x", None, "inf"]), Feature(name="f", fill_value=9.0))
    assert (floats.to_pylist(), bad.tolist()) == ([1.5, 9.0, 9.0, 9.0], [False, True, True, True])
    floats, bad = as_feature(pa.array([1e300, 2.0]), Feature(name="f"))  # infinite as float32
    assert (floats.to_pylist(), bad.tolist()) == ([0.0, 2.0], [True, False])
    whole, bad = as_feature(
        pa.array([1.0, 2.5, None]),
        Feature(name="i", dtype="int64", encoding="vocabulary", fill_value=-1),
    )
    assert (whole.to_pylist(), bad.tolist()) == ([1, -1, -1], [False, True, True])
    text, bad = as_feature(
        pa.array([3.0, None]),
        Feature(name="s", dtype="string", encoding="vocabulary", fill_value="?"),
    )
    assert (text.to_pylist(), bad.tolist()) == (["3", "?"], [False, True])
    text, bad = as_feature(
        pa.array([b"ok", b"\xff\xfe"]), Feature(name="s", dtype="string", encoding="vocabulary")
    )
    assert (text.to_pylist(), bad.tolist()) == (["ok", ""], [False, True])
    vectors, bad = as_feature(
        pa.array([[1.0, 2.0], [1.0], None, [np.nan, 1.0]]), Feature(name="v", width=2)
    )
    assert (vectors.to_pylist(), bad.tolist()) == (
        [[1, 2], [0, 0], [0, 0], [0, 0]],
        [False, True, True, True],
    )


def test_labels_outside_their_range_are_told():
    assert as_label(pa.array([0, 1, 2, None]), Label(name="y"))[1].tolist() == [
        False,
        False,
        True,
        True,
    ]
    assert as_label(pa.array([True, False]), Label(name="y"))[1].tolist() == [False, False]
    rating = Label(name="y", kind="regression", minimum=1, maximum=5)
    assert as_label(pa.array([1.0, 5.0, 5.1, np.nan]), rating)[1].tolist() == [
        False,
        False,
        True,
        True,
    ]


def test_markers_and_empty_files_are_left_out_and_counted(tmp_path):
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.csv").touch()
    for marker in ("_SUCCESS", ".a.csv.crc", "_committed_1"):
        (tmp_path / marker).write_text("")
    source = Source.match("interactions", [f"{tmp_path}/*", f"{tmp_path}/.*"])
    assert source.files == (f"{tmp_path}/a.csv",)
    assert source.empty == (f"{tmp_path}/b.csv",)
    assert len(source.markers) == 3
    with pytest.raises(SourceError, match=r"no file with data \(empty: .*b.csv"):
        Source.match("interactions", f"{tmp_path}/b.csv")


@pytest.mark.parametrize("name", ["x.CSV", "x.TSV", "x.txt", "x.Csv.GZ", "x.tsv-00000-of-00002"])
def test_suffixes_count_whatever_their_case(tmp_path, name):
    content = b"a\tb\n1\t2\n"
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if name.lower().endswith("gz") else content)
    assert read(path, ["b", "a"]).to_pydict() == {"b": ["2"], "a": ["1"]}


def test_a_bad_row_of_a_feature_table_stops_the_run_with_its_line(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n3\n")
    with pytest.raises(SourceError, match=r"x.csv, line 3: number_of_fields: '3'"):
        read(tmp_path / "x.csv", ["a", "b"])


def test_lines_of_bad_rows_are_right_over_many_blocks(tmp_path):
    lines = [b"a,b"] + [b"%d,xxxxxxxxxxxxxxxxxxxx" % n for n in range(600_000)]
    wrong = {7: b"1", 300_000: b"M\xfcller,2", 300_002: b"1,2,3", 599_999: b"\xff,\xff"}
    for line, content in wrong.items():
        lines[line - 1] = content
    (tmp_path / "x.csv").write_bytes(b"\n".join(lines))
    found, rows = {}, 0
    for part in read_part((f"{tmp_path}/x.csv", None), ["a", "b"], 65_536):
        rows += part.table.num_rows
        found |= {bad.line: bad.reason for bad in part.bad}
    assert found == {
        7: "number_of_fields",
        300_000: "not_utf8",
        300_002: "number_of_fields",
        599_999: "not_utf8",
    }
    assert rows == 600_000 - 4
