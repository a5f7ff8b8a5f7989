"""Part files, compressed files, lists, delimiters and null words: one reader for both commands."""

from __future__ import annotations

import bz2
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from lake import DAYS, SCHEMA, rows_of

from limaml_beam.build_tasks.settings import parse_time
from limaml_beam.io.read_errors import SourceError
from limaml_beam.io.sources import Source, read_tables
from tfrec_limaml import datasets
from tfrec_limaml.cli import main
from tfrec_limaml.datasets import part_files, user_files
from tfrec_limaml.datasets.text_format import TextFormat
from tfrec_limaml.errors import LimamlError, SchemaError


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


def test_a_quotation_mark_that_is_not_closed_is_refused_and_read_on_request(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(SCHEMA))
    lines = ["y,t,u,tags,land"]
    for n in range(40):
        time = parse_time("2026-01-01") + n * 5 * 3_600_000
        lines.append(f"{n % 2},{time},u{n % 3},a;b," + ('"27' if n in (5, 30) else "no"))
    (tmp_path / "x.csv").write_text("\n".join(lines))
    files = ["--schema", f"{tmp_path}/s.yaml", "--interactions", f"{tmp_path}/x.csv"]
    for command in (["datasets", "prepare"], ["prepare"]):
        output = ["--output", str(tmp_path / command[0])]
        assert main([*command, *files, *output]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"limaml: error: cannot read {tmp_path}/x.csv: a quotation mark is")
        assert main([*command, *files, *output, "--no-quotes"]) == 0
    card = json.loads((tmp_path / "prepare" / "data_card.json").read_text())
    assert card["rows"]["read"] == card["rows"]["used"] == 40
    assert len(pd.read_parquet(tmp_path / "datasets" / "interactions.parquet")) == 40


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
