"""What a schema refuses: by name, with the value and what to do."""

from __future__ import annotations

import pytest
from toys import news_schema

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import (
    Feature,
    History,
    Label,
    Schema,
)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoding": "onehot"}, "'x': encoding must be one of .*'hash'.*received 'onehot'"),
        (
            {"dtype": "string"},
            "'x': encoding 'numeric' needs dtype int64 or float32, received string",
        ),
        (
            {"encoding": "hash", "buckets": 3},
            "'x': encoding 'hash' needs dtype string or int64, received float32",
        ),
        (
            {"encoding": "hash", "dtype": "int64"},
            "'x': encoding 'hash' needs buckets >= 1, received 0",
        ),
        (
            {"encoding": "vocabulary", "dtype": "int64", "width": 2},
            "'x': width must be 1 .*received 2",
        ),
        ({"width": 0}, "'x': width must be 1 .*received 0"),
        (
            {"embedding_width": 4},
            "'x': embedding_width must be >= 1 on a categorical feature, received 4",
        ),
        ({"separator": ","}, "'x': separator needs dtype string .*received ',' and float32"),
        (
            {"dtype": "string", "encoding": "vocabulary", "separator": ""},
            "separator needs .* at least one character",
        ),
        (
            {"dtype": "string", "encoding": "vocabulary", "max_vocabulary": -5},
            "max_vocabulary must be at least 1 .* received -5",
        ),
        ({"buckets": -1}, "buckets not negative, received 10000 and -1"),
        ({"buckets": "1e6"}, "buckets must be a whole number, received '1e6'; .* digits"),
        ({"width": 2.5}, "width must be a whole number, received 2.5"),
        ({"width": True}, "width must be a whole number, received True"),
        ({"name": True}, "name must be text, received True; .* quotes"),
        ({"fill_value": "many"}, "fill_value must be a number for dtype float32"),
        ({"fill_value": float("nan")}, "fill_value must be a finite number or text"),
        ({"dtype": "int64", "fill_value": 0.5}, "fill_value must be a whole number .*received 0.5"),
        ({"table": 5}, "table must be text or left out, received 5"),
    ],
)
def test_a_feature_that_cannot_be_is_refused_by_name_and_value(changes, said):
    with pytest.raises(SchemaError, match=said):
        Feature(**{"name": "x", **changes})


def _embedded(name):
    return Feature(name=name, dtype="string", encoding="vocabulary", embedding_width=2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"features": (*news_schema().features, Feature(name="age"))},
            "unique, received twice: .*'age'",
        ),
        ({"carry": ("age",)}, "unique, received twice: .*'age'"),
        (
            {"features": (*news_schema().features, Feature(name="opened"))},
            "label 'opened' may not be a feature",
        ),
        (
            {"features": (*news_schema().features, Feature(name="weight"))},
            r"\['weight'\] are reserved names.*rename",
        ),
        ({"carry": ("timestamp",)}, r"\['timestamp'\] are reserved names.*rename"),
        (
            {"carry": ("probability", "history")},
            r"\['history', 'probability'\] would replace columns of the same names",
        ),
        (
            {"features": (*news_schema().features, _embedded("other"))},
            r"embedding may not be named like a role, received \['other'\]",
        ),
        ({"features": news_schema().features[1:]}, "role 'meta'"),
        ({"tasks": {}}, "at least one definition"),
        ({"tasks": {"user": ()}}, "at least one definition"),
        ({"timestamp_unit": "min"}, "timestamp_unit must be one of .*received 'min'"),
        (
            {"features": (*news_schema().features, Feature(name="x", table="users"))},
            r"tables \['users'\], but tables holds \[\]",
        ),
    ],
)
def test_an_inconsistent_schema_is_refused_by_value(changes, said):
    with pytest.raises(SchemaError, match=said):
        news_schema(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": 1}, r"schema has unknown fields \['colour'\]; there are"),
        ({"timestmp": "t"}, r"unknown fields \['timestmp'\]; did you mean 'timestamp'\?"),
        ({"features": [{"name": "age", "rol": "meta"}]}, r"feature has unknown fields \['rol'\]"),
        ({"features": ["age"]}, "each of features must be a mapping, received 'age'"),
        ({"features": None}, "features must be a list of mappings, received None"),
        ({"features": [{"role": "meta"}]}, r"feature lacks the required fields \['name'\]"),
        ({"tasks": {"user": "user_id"}}, "task 'user' must be a list of names.*received 'user_id'"),
        ({"tasks": ["user_id"]}, r"tasks must be a mapping, received \['user_id'\]"),
        ({"carry": "dwell"}, "carry must be a list of names.*received 'dwell'"),
        ({"history": [{}]}, "history keys must be a list of names.*received None"),
        ({"label": ["opened"]}, "label must be a mapping"),
        (
            {"split": {"validation_start": "2024-01-03", "test_start": "2024-01-02"}},
            "must increase strictly",
        ),
        (
            {"split": {"validation_start": "soon", "test_start": "2024-01-02"}},
            "cannot read 'soon' as an ISO 8601",
        ),
    ],
)
def test_a_file_with_a_wrong_field_is_refused_by_name_and_value(changes, said):
    with pytest.raises(SchemaError, match=said):
        Schema.from_dict({**news_schema().to_dict(), **changes})


GOOD = """
name: news
label: opened
timestamp: time
tasks: {user: [user_id]}
features: [{name: age, role: meta}]
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: news", "name: on", "name must be text, received True"),
        ("name: news", "name: a\nname: b", "the key 'name' occurs twice"),
        ("role: meta", "role: meta, role: other", "the key 'role' occurs twice"),
        ("label: opened", "label: [opened]", "label must be a mapping"),
        ("label: opened", "label: {name: 5}", "label 5: name must be text, received 5"),
        ("label: opened", "label: {name: y, minimum: 3, maximum: 1}", "minimum must lie below"),
        ("label: opened", "label: {name: y, minimum: low}", "minimum must be a finite number"),
        ("[user_id]", "[]", "at least one definition with key columns"),
        ("[user_id]", "user_id", "must be a list of names"),
        ("{user: [user_id]}", "{off: [user_id]}", "task definition's name must be text"),
        ("{user: [user_id]}", "{../user: [user_id]}", "'../user' is also that of its folder"),
        ("{user: [user_id]}", "{user/tab: [user_id]}", "a name without slashes"),
        ("[user_id]", "[user_id, opened]", "the label 'opened' may not be in the key"),
        (
            "timestamp: time",
            "timestamp: t\nhistory: [{keys: [user_id, opened]}]",
            "the label 'opened' may not be in the key",
        ),
        ("timestamp: time", "timestamp: t\ntables: {.users: id}", "table '.users' is also that of"),
        ("timestamp: time", "timestamp: 5", "timestamp must be text"),
        (
            "timestamp: time",
            "timestamp: t\ntables: {users: 5}",
            "key of table 'users' must be text",
        ),
        ("timestamp: time", "timestamp: t\ntables: [users]", "tables must be a mapping"),
        ("timestamp: time", "timestamp: t\nweight: opened", "weight may not be the label"),
        ("timestamp: time", "timestamp: t\nhistory: [{keys: []}]", "needs at least one column"),
        (
            "timestamp: time",
            "timestamp: t\nhistory: [{keys: [user_id], smoothing: -1}]",
            "smoothing must not be negative",
        ),
        (
            "timestamp: time",
            "timestamp: t\nhistory: [{keys: [user_id], smoothing: lots}]",
            "smoothing must be a finite number",
        ),
        (
            "timestamp: time",
            "timestamp: t\nhistory: [{keys: [user_id], values: [mean]}]",
            "values must be some of",
        ),
        (
            "timestamp: time",
            "timestamp: t\nhistory: [{keys: [a, b], values: [rate]}, "
            "{keys: [a_b], values: [count]}]",
            "two entries of history have the name 'a_b'",
        ),
        ("timestamp: time", "timestamp: t\nsplit: soon", "split must be a mapping"),
        (
            "timestamp: time",
            "timestamp: t\nsplit: {validation_start: 5, test_start: 2024-01-01}",
            "validation_start must be text or left out, received 5",
        ),
        ("timestamp: time", "timestamp: 2024-13-45", "is not valid YAML"),
        ("name: news", "name: " + "[" * 3000, "nested too deeply|not valid YAML"),
    ],
)
def test_nonsense_in_a_file_is_refused_with_the_file_and_the_value(tmp_path, old, new, said):
    Schema.from_yaml(GOOD, "good.yaml")
    assert old in GOOD
    (tmp_path / "bad.yaml").write_text(GOOD.replace(old, new))
    with pytest.raises(SchemaError, match=rf"(?s)bad\.yaml.*({said})"):
        Schema.load(tmp_path / "bad.yaml")


def test_a_schema_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("name: Größe".encode("latin-1"))
    with pytest.raises(SchemaError, match=r"cannot read .*latin\.yaml.*UTF-8"):
        Schema.load(tmp_path / "latin.yaml")
    (tmp_path / "bom.yaml").write_text(GOOD, encoding="utf-8-sig")
    assert Schema.load(tmp_path / "bom.yaml").name == "news"


def test_missing_and_malformed_files_are_named(tmp_path):
    with pytest.raises(SchemaError, match=r"no schema file at .*absent\.yaml"):
        Schema.load(tmp_path / "absent.yaml")
    (tmp_path / "schema.yaml").write_text(GOOD)
    (tmp_path / "member").mkdir()
    with pytest.raises(SchemaError, match=rf"in the folder above: give {tmp_path}$"):
        Schema.load(tmp_path / "member" / "schema.yaml")
    for text, said in (
        ("a: [", "broken.yaml is not valid YAML"),
        ("- a", "broken.yaml holds list, expected a mapping"),
    ):
        (tmp_path / "broken.yaml").write_text(text)
        with pytest.raises(SchemaError, match=said):
            Schema.load(tmp_path / "broken.yaml")


def test_an_unknown_task_definition_is_told_the_known_ones():
    assert news_schema().task_columns() == ("user_id",)
    assert news_schema().task_columns("user_tab") == ("user_id", "tab")
    with pytest.raises(SchemaError, match=r"'tab'.*\['user', 'user_tab'\]"):
        news_schema().task_columns("tab")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks": {"u": "uid"}}, "tasks: u must be a list of names.*received 'uid'"),
        ({"carry": "abc"}, "carry must be a list of names.*received 'abc'"),
        ({"label": "y"}, r"label must be a Label, received 'y'; make one with tfrec_limaml\.Label"),
        ({"features": ({"name": "x"},)}, r"features must be a list of Feature .*received \{'name'"),
        ({"features": Feature(name="x")}, r"a list of Feature objects, received Feature\(name='x'"),
        ({"split": "2024-01-01"}, "split must be a Split, received '2024-01-01'"),
    ],
)
def test_values_of_another_type_are_refused_in_python_too(changes, said):
    declared = {
        **{"name": "s", "label": Label(name="y"), "timestamp": "t", "tasks": {"u": ("uid",)}},
        "features": (Feature(name="x", role="meta"),),
    }
    Schema(**declared)
    with pytest.raises(SchemaError, match=said):
        Schema(**{**declared, **changes})


def test_the_keys_of_a_history_are_a_list_in_python_too():
    with pytest.raises(SchemaError, match=r"history: keys must be a list of names.*received 'ab'"):
        History(keys="ab")
