"""What is said about the user's own files, and the schema that is guessed from them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tfrec_limaml import datasets
from tfrec_limaml.datasets import raw
from tfrec_limaml.errors import LimamlError, SchemaError
from tfrec_limaml.schema.schema import Schema


def test_columns_that_are_no_features_are_named_by_describe(tmp_path, own_frame):
    rows = len(own_frame)
    table = pa.Table.from_pandas(own_frame.drop(columns="user_id"), preserve_index=False)
    odd = {
        "struct": pa.array([{"a": 1}] * rows),
        "map": pa.array([[("a", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
        "ragged": pa.array([[1.0] * (1 + n % 3) for n in range(rows)]),
        "lists": pa.array([[["a"], ["b"]]] * rows),
    }
    fine = {
        "words": pa.array([["a"] * (n % 3) + ["b"] for n in range(rows)]),
        "vector": pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32(), 2)),
        "bytes": pa.array([f"b{n % 4}".encode() for n in range(rows)]),
        "day": pa.array([n % 9 for n in range(rows)], pa.int32()).cast(pa.date32()),
        "user_id": pa.array([bytes([n % 4]) * 16 for n in range(rows)], pa.binary(16)),
    }
    for name, column in {**odd, **fine}.items():
        table = table.append_column(name, column)
    pq.write_table(table, tmp_path / "odd.parquet")
    result = datasets.describe(tmp_path / "odd.parquet")
    features = {f["name"]: f for f in yaml.safe_load(result["schema_yaml"])["features"]}
    assert not set(odd) & set(features)
    assert {"bytes", "vector", "words"} <= set(features)
    for name in odd:
        assert any(f"left out: {name} holds values of" in text for text in result["warnings"])
    assert result["tasks"] == 4


def test_a_guessed_schema_prepares_the_file_it_was_guessed_from(tmp_path):
    datasets.prepare("simulated", tmp_path / "world", settings={"members": 60, "days": 20})
    frame = raw.read_raw(tmp_path / "world")
    joined = frame.interactions.merge(frame.tables["members"], on="member_id").drop(
        columns="bayes_probability"
    )
    joined.to_csv(tmp_path / "clicks.csv", index=False)
    described = datasets.describe(tmp_path / "clicks.csv", write_schema=tmp_path / "guess.yaml")
    schema = Schema.load(tmp_path / "guess.yaml")
    assert (schema.label.name, schema.timestamp, schema.timestamp_unit) == (
        "clicked",
        "timestamp",
        "ms",
    )
    assert dict(schema.tasks) == {"member": ("member_id",)}
    meta = {f.name for f in schema.features if f.role == "meta"}
    assert meta == {"industry", "seniority", "country", "connections", "account_age_days"}
    assert next(f for f in schema.features if f.name == "topic").encoding == "vocabulary"
    assert next(f for f in schema.features if f.name == "sender_closeness").encoding == "quantiles"
    card = datasets.prepare_own(tmp_path / "guess.yaml", tmp_path / "clicks.csv", tmp_path / "raw")
    assert card["rows"] == described["rows"] == len(joined)
    assert datasets.describe(tmp_path / "raw")["samples_per_task"] == card["samples_per_task"]
    with pytest.raises(LimamlError, match="exists already"):
        datasets.describe(tmp_path / "clicks.csv", write_schema=tmp_path / "guess.yaml")


def test_a_guess_leaves_out_what_gives_the_label_away(own_frame, tmp_path):
    leak = own_frame.assign(
        seconds_spent=[str(100 * int(b) + n) for n, b in enumerate(own_frame.bought)], is_follow="0"
    )
    leak.loc[::7, "is_follow"] = "1"
    leak["tags"] = ["a|b", "b|c", "a|c", "c|a|b", "b"] * 8
    leak.to_csv(tmp_path / "leak.csv", index=False)
    result = datasets.describe(tmp_path / "leak.csv")
    schema = yaml.safe_load(result["schema_yaml"])
    names = {f["name"]: f for f in schema["features"]}
    assert schema["label"]["name"] == "bought"
    assert not {"seconds_spent", "is_follow", "remark"} & set(names)
    assert names["tags"]["separator"] == "|"
    assert names["user_id"]["role"] == "meta"  # nothing else says anything about the user
    assert any("seconds_spent alone ranks bought" in check for check in result["warnings"])


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("bought", "no column looks like a label"),
        ("at", "looks like a time"),
        ("user_id", "looks like a task key"),
    ],
)
def test_a_file_without_a_clue_is_refused_with_what_is_missing(own_frame, tmp_path, drop, message):
    own_frame.drop(columns=[drop]).to_csv(tmp_path / "clicks.csv", index=False)
    with pytest.raises(SchemaError, match=message):
        datasets.describe(tmp_path / "clicks.csv")


def test_an_unknown_name_is_answered_with_the_closest_one():
    with pytest.raises(LimamlError, match="did you mean 'kuairand-pure'"):
        datasets.describe("kuairand-pur")
    assert datasets.describe("kuairand-pure")["licence"] == "CC BY-SA 4.0"
