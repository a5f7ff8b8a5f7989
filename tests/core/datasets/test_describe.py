"""What is said about the user's own files, and the schema that is guessed from them."""

from __future__ import annotations

import shlex

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tfrec_limaml import datasets
from tfrec_limaml.cli import main
from tfrec_limaml.datasets import column_names, raw
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


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("label", ["yes", "no"], r"label 'own' has values such as 'yes', 'no': write 1 and 0"),
        (
            "timestamp",
            ["03/01/2024 10:00"],
            r"timestamp 'own' .* '03/01/2024 10:00': write seconds",
        ),
    ],
)
def test_a_column_that_was_named_and_cannot_be_used_shows_its_values(
    own_frame, tmp_path, option, values, message
):
    own_frame["own"] = [values[n % len(values)] for n in range(len(own_frame))]
    own_frame.to_csv(tmp_path / "clicks.csv", index=False)
    with pytest.raises(SchemaError, match=message):
        datasets.describe(tmp_path / "clicks.csv", **{option: "own"})


def test_an_unknown_name_is_answered_with_the_closest_one():
    with pytest.raises(LimamlError, match="did you mean 'kuairand-pure'"):
        datasets.describe("kuairand-pur")
    assert datasets.describe("kuairand-pure")["licence"] == "CC BY-SA 4.0"


@pytest.mark.parametrize(
    ("name", "thing"),
    [
        ("user_id", "user"),
        ("userId", "user"),
        ("UserID", "User"),
        ("USER_ID", "USER"),
        ("User ID", "User"),
        ("user-id", "user"),
        ("itemid", "item"),
        ("session_uuid", "session"),
        ("uid", "uid"),
        ("app/user.id", "app_user"),
    ],
)
def test_identifiers_are_known_by_their_names_and_name_a_thing(name, thing):
    assert column_names.is_id(name)
    assert column_names.without_id(name) == thing


@pytest.mark.parametrize("name", ["paid", "bid", "PAID", "covid", "idle", "grid_size", "price"])
def test_other_words_that_end_alike_are_no_identifiers(name):
    assert not column_names.is_id(name)


@pytest.fixture
def described(tmp_path):
    """Describes 200 rows of 10 users with further columns: the features by name, and the checks."""

    def describe(**further):
        rows = range(200)
        frame = pd.DataFrame(
            {
                "user_id": [n % 10 for n in rows],
                "clicked": [n * 7 % 3 % 2 for n in rows],
                "at": [1_700_000_000 + n * 3600 for n in rows],
                "price": [f"{n * 37 % 100}.5" for n in rows],
                **{name: [value(n) for n in rows] for name, value in further.items()},
            }
        )
        frame.to_csv(tmp_path / "clicks.csv", index=False)
        result = datasets.describe(tmp_path / "clicks.csv")
        schema = yaml.safe_load(result["schema_yaml"])
        return {f["name"]: f for f in schema["features"]}, "\n".join(result["warnings"])

    return describe


@pytest.mark.parametrize("name", ["ITEM_ID", "Item ID", "MovieID", "itemid"])
def test_numbers_named_like_an_identifier_are_categories(described, name):
    features, _ = described(**{name: lambda n: n * 11 % 40})
    assert features[name]["encoding"] == "vocabulary"


def test_digits_with_leading_zeros_are_a_code(described):
    features, _ = described(postcode=lambda n: f"{n % 40:05d}")
    assert features["postcode"]["encoding"] == "vocabulary"


@pytest.mark.parametrize(
    ("name", "value", "remark"),
    [
        ("event_id", lambda n: 10**9 + n * 37 % 200, "200 different values in 200 rows"),
        ("note", lambda n: f"a text, number {n}", "200 different values in 200 rows"),
        ("row", lambda n: n, "numbers the rows"),
        ("updated_at", lambda n: 1_700_000_100 + n * 3600, "is a second time column"),
        ("tags", lambda n: str([["a", "b"], ["c"]][n % 2]), "lists that are written as text"),
        ("weight", lambda n: n % 7, "is a reserved name"),
    ],
)
def test_a_column_that_teaches_nothing_or_cannot_be_read_is_left_out_with_the_reason(
    described, name, value, remark
):
    features, checks = described(**{name: value})
    assert name not in features
    assert remark in next(c for c in checks.splitlines() if c.startswith(f"left out: {name} "))


@pytest.mark.parametrize("form", ["${}.5", "{}.5%", "{},5", "{},000.0"])
def test_numbers_in_other_notations_are_pointed_out(described, form):
    _, checks = described(amount=lambda n: form.format(n % 60))
    assert f"amount is read as text, because values such as {form.format(0)!r}" in checks


def test_tags_and_words_are_no_numbers_in_another_notation(described):
    _, checks = described(tags=lambda n: f"t{n % 3},t{n % 4}", word=lambda n: f"w{n % 50}")
    assert "not numbers" not in checks


def test_words_that_other_tools_write_for_a_missing_value_are_pointed_out(described):
    _, checks = described(
        age=lambda n: "NA" if n % 9 == 0 else n % 50, city=lambda n: "-" if n % 9 == 0 else "x"
    )
    assert "'NA' in age; '-' in city" in checks
    option = "--null-word='NULL' --null-word='null' --null-word='NA' --null-word='-'"
    assert checks.endswith(f"pass {option}") or f"pass {option}\n" in checks
    assert "not numbers" not in checks


def test_missing_numbers_become_the_median_and_it_is_said(described):
    features, checks = described(age=lambda n: "" if n % 4 == 0 else 20.5 + n % 50)
    assert features["age"]["fill_value"] == 45.5
    assert "fill value: 25.0% of age is missing and becomes the median, 45.5" in checks
    assert "fill_value" not in features["price"]


def test_vectors_in_json_are_vectors(described):
    features, _ = described(embedding=lambda n: f"[0.5, {n}, -1e-3]")
    assert features["embedding"]["width"] == 3


def test_a_registration_time_in_seconds_stays_a_feature_of_the_member(described):
    features, _ = described(created_at=lambda n: 1_600_000_000 + n % 10 * 86400)
    assert features["created_at"]["role"] == "meta"


def test_a_file_in_which_no_separator_is_found_is_refused_with_the_option(tmp_path):
    (tmp_path / "clicks.csv").write_text("user_id|at|bought\n1|1700000000|1\n")
    with pytest.raises(SchemaError, match=r"one column only, .user_id\|at\|bought.*--delimiter"):
        datasets.describe(tmp_path / "clicks.csv")


@pytest.mark.parametrize("name", ["is_profile_enter", "entered", "n_watch"])
def test_a_column_named_like_an_outcome_is_left_out(described, name):
    features, checks = described(**{name: lambda n: n * 7 % 3}, center=lambda n: n * 7 % 3)
    assert name not in features
    assert f"left out: {name} looks like another outcome" in checks
    assert "center" in features


def test_spaces_around_names_do_not_belong_to_them_and_columns_without_a_name_are_counted(tmp_path):
    rows = "".join(f"{n},{n % 9},{1_700_000_000 + n},{n % 2}, {n * 3 % 7}\n" for n in range(90))
    (tmp_path / "clicks.csv").write_text(f" ,user_id, at , clicked,price\n{rows}")
    result = datasets.describe(tmp_path / "clicks.csv")
    schema = yaml.safe_load(result["schema_yaml"])
    assert (schema["label"]["name"], schema["timestamp"]) == ("clicked", "at")
    assert [f["name"] for f in schema["features"]] == ["user_id", "price"]
    assert "left out: columns without a name in line 1: 1" in result["warnings"]


def test_the_command_that_prepares_the_file_with_the_written_schema_is_named(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{n % 9}\x01{1_700_000_000 + n}\x01{n % 2}\x01NA\n" for n in range(90))
    (tmp_path / "my clicks.csv").write_text(f"user_id\x01at\x01clicked\x01price\n{rows}")
    text = ["--delimiter", r"\x01", "--null-word", "NA"]
    describe = ["datasets", "describe", "my clicks.csv", "--write-schema", "my.yaml", *text]
    assert main(describe) == 0
    start, _, command = capsys.readouterr().out.rpartition("then: limaml ")
    assert start.endswith("# written to my.yaml; check and edit it, ")
    assert main(shlex.split(command.replace("RAW", "raw"))) == 0
    assert len(raw.read_raw(tmp_path / "raw").interactions) == 90
