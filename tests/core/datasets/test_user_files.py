"""The user's own files, from a CSV line to the raw layout."""

from __future__ import annotations

import bz2
import gzip
import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tfrec_limaml import datasets
from tfrec_limaml.datasets import raw, user_files
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import Schema


@pytest.fixture
def files(tmp_path, own_schema, own_frame, own_users):
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(own_schema))
    own_frame.to_csv(tmp_path / "clicks.csv", index=False)
    own_users.to_parquet(tmp_path / "users.parquet")
    return tmp_path


def prepare(files, **options):
    arguments = {
        "interactions": files / "clicks.csv",
        "tables": {"users": files / "users.parquet"},
        **options,
    }
    return datasets.prepare_own(files / "my.yaml", output=files / "raw", **arguments)


def test_csv_and_parquet_become_the_raw_layout(files):
    card = prepare(files)
    assert {p.name for p in (files / "raw").iterdir()} == {
        "schema.yaml",
        "interactions.parquet",
        "users.parquet",
        "data_card.json",
    }
    assert json.loads((files / "raw" / "data_card.json").read_text())["rows"] == card["rows"] == 40
    back = raw.read_raw(files / "raw")
    assert back.interactions.user_id.tolist()[:2] == ["000", "001"]
    assert back.interactions.category.tolist()[0] == "Süßes|more"
    assert back.tables["users"].age.isna().sum() == 1


@pytest.mark.parametrize(
    ("separator", "name"), [("\t", "clicks.tsv"), (";", "clicks.csv"), (",", "clicks.csv.gz")]
)
def test_separators_and_compression_are_recognised(files, own_frame, separator, name):
    own_frame.to_csv(
        files / name,
        index=False,
        sep=separator,
        encoding="utf-8-sig" if separator == ";" else "utf-8",
    )
    assert prepare(files, interactions=files / name)["rows"] == 40


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.csv", None, "no file at"),
        ("empty.csv", b"", "is empty"),
        ("header.csv", b"user_id,at,bought\n", "has a header, but no rows"),
        ("clicks.xlsx", b"x", "cannot tell the format"),
        ("broken.parquet", b"PAR1", "cannot read"),
        (
            "latin.csv",
            "who\nMüller\n".encode("latin-1"),
            r": who: M\\xfcller; save the file as UTF-8",
        ),
        ("ragged.csv", b"a,b\n1,2\n1,2,3\n", r"1 of 2 rows are malformed, first line 3 .*'1,2,3'"),
        ("comma.csv", b"a,b\n1,2,\n3,4,\n", "2 of 2 rows are malformed, first line 2"),
        ("twice.csv", b"a,b,a\n1,2,3\n", r"columns of the same name: \['a'\]"),
        (
            "cut.csv.gz",
            gzip.compress(b"a,b\n" + b"1,2\n" * 999, mtime=0)[:-12],
            "is the file complete",
        ),
        ("blank.csv", b"\n\n", "line 1 is empty"),
        ("gz.csv", gzip.compress(b"a,b\n1,2\n", mtime=0), r"is compressed.*end in \.csv\.gz"),
        ("bz.csv", bz2.compress(b"a,b\n1,2\n"), r"is compressed.*end in \.csv\.bz2"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SchemaError, match=message):
        user_files.read_table(tmp_path / name)


def test_columns_of_the_same_name_are_refused_in_parquet_too(tmp_path):
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "x.parquet")
    with pytest.raises(SchemaError, match=r"columns of the same name: \['a'\]"):
        user_files.read_table(tmp_path / "x.parquet")


def test_a_few_malformed_rows_are_dropped_and_counted_by_reason(files, own_frame):
    lines = own_frame.to_csv(index=False).splitlines()
    lines[5] += ",more"
    (files / "clicks.csv").write_bytes("\n".join(lines).encode() + b"\n1,2,M\xfc,4,5,6\n")
    fields = len(lines[0].split(","))
    last = ",".join(["1"] * (fields - 1)).encode() + b",M\xfcller\n"
    (files / "clicks.csv").write_bytes("\n".join(lines).encode() + b"\n" + last)
    card = prepare(files)
    assert card["dropped"] == {
        "malformed row (number_of_fields)": 1,
        "malformed row (not_utf8)": 1,
    }
    assert card["rows"] == 39


@pytest.mark.parametrize("quote", [False, True])
def test_a_header_with_a_byte_order_mark_and_quotes_names_the_columns(files, own_frame, quote):
    text = own_frame.to_csv(index=False, quoting=1 if quote else 0)
    (files / "CLICKS.CSV").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert prepare(files, interactions=files / "CLICKS.CSV")["rows"] == 40


def test_a_key_in_the_index_of_a_pandas_file_is_a_column(files, own_frame):
    own_frame.set_index("user_id").to_parquet(files / "indexed.parquet")
    assert prepare(files, interactions=files / "indexed.parquet")["rows"] == 40


def test_integers_with_gaps_stay_exact_in_every_format(files, own_schema, own_frame):
    own_schema["tables"], own_schema["features"] = (
        {},
        [
            {"name": "price", "role": "meta"},
            {"name": "item", "dtype": "int64", "encoding": "hash", "buckets": 8},
        ],
    )
    (files / "my.yaml").write_text(yaml.safe_dump(own_schema))
    ids = [2**62 + n for n in range(39)] + [None]
    frame = own_frame.assign(item=pd.array(ids, "Int64"), user_id=pd.array(ids, "Int64"))
    frame.to_csv(files / "gaps.csv", index=False)
    frame.to_parquet(files / "gaps.parquet")
    for name in ("gaps.csv", "gaps.parquet"):
        prepare(files, interactions=files / name, tables={}, overwrite=True)
        read = raw.read_raw(files / "raw").interactions
        assert sorted(read["item"].tolist()) == ids[:39]
        assert sorted(int(key) for key in read["user_id"]) == ids[:39]


def test_a_table_that_is_missing_or_not_in_the_schema_is_named(files):
    with pytest.raises(SchemaError, match="joins the table 'users', but none was given"):
        prepare(files, tables={})
    with pytest.raises(SchemaError, match=r"--table films: the schema 'shop' joins \['users'\]"):
        prepare(files, tables={"films": files / "users.parquet"})


def test_an_output_is_replaced_only_on_request_and_only_if_it_is_one(files):
    prepare(files)
    with pytest.raises(LimamlError, match=r"--overwrite \(in Python overwrite=True\)"):
        prepare(files)
    prepare(files, overwrite=True)
    (files / "raw" / "schema.yaml").unlink()
    with pytest.raises(LimamlError, match="is not a prepared data set"):
        prepare(files, overwrite=True)


def test_values_in_place_of_paths_are_refused_with_the_way_to_make_a_file(files, own_frame):
    schema = Schema.load(files / "my.yaml")
    with pytest.raises(LimamlError, match=r"interactions .*received a DataFrame.*to_parquet"):
        prepare(files, interactions=own_frame)
    with pytest.raises(LimamlError, match=r"table 'users' .*received a DataFrame.*to_parquet"):
        prepare(files, tables={"users": own_frame})
    with pytest.raises(LimamlError, match=r"schema .*received a Schema; .* save\('schema\.yaml'\)"):
        datasets.prepare_own(schema, files / "clicks.csv", files / "raw")
    with pytest.raises(LimamlError, match=r"target .*received a DataFrame.*to_parquet"):
        datasets.describe(own_frame)
    with pytest.raises(LimamlError, match=r"schema .*received a Schema"):
        datasets.describe(files / "clicks.csv", schema=schema)
    assert not (files / "raw").exists()


def test_a_failure_leaves_neither_output_nor_rubbish_and_keeps_what_was_there(
    files, own_frame, monkeypatch
):
    own_frame.assign(bought="1").to_csv(files / "bad.csv", index=False)
    with pytest.raises(SchemaError):
        prepare(files, interactions=files / "bad.csv")
    before = {p.name for p in files.iterdir()}
    prepare(files)

    def full(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(raw.pq, "write_table", full)
    with pytest.raises(LimamlError, match=r"cannot write .*disk full"):
        prepare(files, overwrite=True)
    assert {p.name for p in files.iterdir()} == before | {"raw"}
    assert raw.read_raw(files / "raw").interactions.shape[0] == 40


def test_fixed_vectors_and_long_identifiers_survive(files, own_schema, own_frame):
    own_schema["features"] += [
        {"name": "vector", "width": 2},
        {"name": "item", "dtype": "int64", "encoding": "hash", "buckets": 8},
    ]
    (files / "my.yaml").write_text(yaml.safe_dump(own_schema))
    own_frame.assign(vector="[0.5, 2]", item=str(2**62 + 1)).to_csv(
        files / "clicks.csv", index=False
    )
    prepare(files)
    frame = raw.read_raw(files / "raw").interactions
    assert frame.vector.iloc[0].tolist() == [0.5, 2.0]
    assert frame["item"].iloc[0] == 2**62 + 1


def test_unquoted_dates_in_a_schema_are_dates_too(files, own_schema):
    del own_schema["split"]
    text = (
        yaml.safe_dump(own_schema)
        + "split: {validation_start: 2024-01-08, test_start: 2024-01-09 12:00:00+08:00}\n"
    )
    (files / "my.yaml").write_text(text)
    card = prepare(files)
    assert card["split"]["rows"] == {"train": 28, "validation": 5, "test": 7}


def test_the_schema_in_the_documentation_is_a_schema(checkout, tmp_path):
    text = (checkout / "docs" / "data.md").read_text(encoding="utf-8")
    (tmp_path / "my.yaml").write_text(text.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    schema = Schema.load(tmp_path / "my.yaml")
    assert schema.default_task == "user"
    assert {f.name for f in schema.features if f.role == "meta"} == {"age", "country"}
