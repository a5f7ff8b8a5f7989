"""The schema and task keys: round trips, fingerprints, errors that say what to do."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.schema.schema import (
    Feature,
    History,
    Label,
    Schema,
    Split,
    parse_time,
)

NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), min_size=1, max_size=8
)


def _schema(**changes):
    fields = {
        "name": "news",
        "label": Label(name="opened"),
        "timestamp": "time",
        "tasks": {"user": ("user_id",), "user_tab": ("user_id", "tab")},
        "features": (
            Feature(name="age", role="meta"),
            Feature(name="tab", dtype="string", encoding="vocabulary"),
        ),
    }
    return Schema(**{**fields, **changes})


@st.composite
def _features(draw, role=None):
    encoding = draw(st.sampled_from(["numeric", "vocabulary", "hash"]))
    numeric = encoding == "numeric"
    dtype = draw(st.sampled_from(["int64", "float32"] if numeric else ["string", "int64"]))
    return {
        "role": role or draw(st.sampled_from(["meta", "other"])),
        "encoding": encoding,
        "dtype": dtype,
        "width": draw(st.integers(1, 4)) if numeric else 1,
        "normalise": draw(st.sampled_from(["standard", "log", "none"])),
        "buckets": draw(st.integers(1, 99)) if encoding == "hash" else 0,
        "embedding_width": None if numeric else draw(st.none() | st.integers(1, 9)),
        "separator": draw(st.none() | st.sampled_from(["|", ",", " "]))
        if dtype == "string"
        else None,
        "fill_value": draw(st.none() | st.sampled_from([-1.0, 2.5])),
        "on_invalid": draw(st.sampled_from(["fill", "skip", "error"])),
    }


@st.composite
def _schemas(draw):
    reserved = ("label", "timestamp", "weight", "meta_embedding", "has_meta_embedding")
    names = draw(
        st.lists(NAMES.filter(lambda n: n not in reserved), min_size=4, max_size=6, unique=True)
    )
    label, carried, first, *others = names
    features = [
        Feature(name=first, **draw(_features("meta"))),
        *(Feature(name=n, **draw(_features())) for n in others),
    ]
    return Schema(
        name=draw(NAMES),
        label=Label(name=label, kind=draw(st.sampled_from(["binary", "regression"]))),
        timestamp="time",
        timestamp_unit=draw(st.sampled_from(["s", "ms", "us", "ns", "iso"])),
        tasks=draw(
            st.dictionaries(
                NAMES, st.lists(NAMES, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3
            )
        ),
        features=tuple(features),
        tables=draw(st.dictionaries(NAMES, NAMES, max_size=2)),
        history=draw(st.sampled_from([(), (History(keys=("user_id", "tab"), smoothing=2.0),)])),
        weight=draw(st.none() | NAMES),
        carry=(carried,) if draw(st.booleans()) else (),
        split=draw(
            st.none()
            | st.just(Split(validation_start="2024-01-02", test_start="2024-01-03T12:00:00+02:00"))
        ),
    )


@given(_schemas())
def test_a_schema_survives_dictionary_json_and_yaml(schema):
    content = schema.to_dict()
    assert Schema.from_dict(content) == schema
    assert Schema.from_dict(json.loads(json.dumps(content))) == schema
    again = Schema.from_dict(
        yaml.safe_load(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    )
    assert again == schema
    assert list(again.tasks) == list(schema.tasks), "the first definition is the default one"
    assert again.fingerprint() == schema.fingerprint()


def test_a_schema_file_round_trips(tmp_path):
    schema = _schema(name="größe")
    schema.save(tmp_path / "schema.yaml")
    assert Schema.load(tmp_path / "schema.yaml") == schema


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"label": Label(name="clicked")},
        {"label": Label(name="opened", kind="regression")},
        {"timestamp": "when"},
        {"timestamp_unit": "s"},
        {"tasks": {"user": ("user_id",)}},
        {"tables": {"users": "user_id"}},
        {"weight": "importance"},
        {"history": (History(keys=("user_id",)),)},
        *(
            {
                "features": (
                    dataclasses.replace(_schema().features[0], **change),
                    _schema().features[1],
                )
            }
            for change in (
                {"name": "years"},
                {"width": 2},
                {"normalise": "log"},
                {"dtype": "int64"},
                {"fill_value": 1.0},
                {"on_invalid": "skip"},
            )
        ),
        *(
            {
                "features": (
                    _schema().features[0],
                    dataclasses.replace(_schema().features[1], **change),
                )
            }
            for change in (
                {"role": "meta"},
                {"embedding_width": 4},
                {"separator": ","},
                {"max_vocabulary": 3},
                {"encoding": "hash", "buckets": 9},
            )
        ),
        {"features": _schema().features[::-1]},
    ],
    ids=str,
)
def test_whatever_changes_what_a_model_sees_changes_the_fingerprint(changes):
    assert _schema(**changes).fingerprint() != _schema().fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"split": Split(validation_start="2024-01-02", test_start="2024-01-03")},
        {"carry": ("dwell",)},
        {"tasks": {"user_tab": ("user_id", "tab"), "user": ("user_id",)}},
        {
            "features": (
                Feature(name="age", role="meta", normalise="standard", width=1),
                _schema().features[1],
            )
        },
    ],
    ids=str,
)
def test_splits_carried_columns_and_written_out_defaults_leave_the_fingerprint(changes):
    assert _schema(**changes).fingerprint() == _schema().fingerprint()


def test_the_fingerprint_is_stable_over_releases():
    """It lies in manifests of models that are in service: a change here orphans them."""
    assert _schema().fingerprint() == "59a56800eadaa8e5"


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
        ({"table": 5}, "table must be text or left out, received 5"),
    ],
)
def test_a_feature_that_cannot_be_is_refused_by_name_and_value(changes, said):
    with pytest.raises(SchemaError, match=said):
        Feature(**{"name": "x", **changes})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"features": (*_schema().features, Feature(name="age"))},
            "unique, received twice: .*'age'",
        ),
        ({"carry": ("age",)}, "unique, received twice: .*'age'"),
        (
            {"features": (*_schema().features, Feature(name="opened"))},
            "label 'opened' may not be a feature",
        ),
        (
            {"features": (*_schema().features, Feature(name="weight"))},
            r"\['weight'\] have a meaning of their own.*rename",
        ),
        ({"carry": ("timestamp",)}, r"\['timestamp'\] have a meaning of their own.*rename"),
        ({"features": _schema().features[1:]}, "role 'meta'"),
        ({"tasks": {}}, "at least one definition"),
        ({"tasks": {"user": ()}}, "at least one definition"),
        ({"timestamp_unit": "min"}, "timestamp_unit must be one of .*received 'min'"),
        (
            {"features": (*_schema().features, Feature(name="x", table="users"))},
            r"tables \['users'\], but tables holds \[\]",
        ),
    ],
)
def test_an_inconsistent_schema_is_refused_by_value(changes, said):
    with pytest.raises(SchemaError, match=said):
        _schema(**changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"colour": 1}, r"schema has unknown fields \['colour'\]; known ones are"),
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
        Schema.from_dict({**_schema().to_dict(), **changes})


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
        ("name: news", "name: a\nname: b", "the key 'name' stands there twice"),
        ("role: meta", "role: meta, role: other", "the key 'role' stands there twice"),
        ("label: opened", "label: [opened]", "label must be a mapping"),
        ("label: opened", "label: {name: 5}", "label 5: name must be text, received 5"),
        ("label: opened", "label: {name: y, minimum: 3, maximum: 1}", "minimum must lie below"),
        ("label: opened", "label: {name: y, minimum: low}", "minimum must be a finite number"),
        ("[user_id]", "[]", "at least one definition with key columns"),
        ("[user_id]", "user_id", "must be a list of names"),
        ("{user: [user_id]}", "{off: [user_id]}", "task definition's name must be text"),
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


def test_a_history_makes_the_values_that_it_names_and_all_of_them_by_default():
    assert [f.name for f in History(keys=("a", "b")).features()] == [
        "history_a_b_rate",
        "history_a_b_count",
        "history_a_b_recency",
    ]
    history = History(keys=("a",), values=("count", "rate"))
    assert [(f.name, f.normalise) for f in history.features()] == [
        ("history_a_rate", "standard"),
        ("history_a_count", "log"),
    ]
    schema = _schema(history=(history,))
    assert Schema.from_dict(schema.to_dict()) == schema
    assert schema.fingerprint() != _schema(history=(History(keys=("a",)),)).fingerprint()


def test_missing_and_malformed_files_are_named(tmp_path):
    with pytest.raises(SchemaError, match=r"no schema file at .*absent\.yaml"):
        Schema.load(tmp_path / "absent.yaml")
    for text, said in (
        ("a: [", "broken.yaml is not valid YAML"),
        ("- a", "broken.yaml holds list, expected a mapping"),
    ):
        (tmp_path / "broken.yaml").write_text(text)
        with pytest.raises(SchemaError, match=said):
            Schema.load(tmp_path / "broken.yaml")


def test_an_unknown_task_definition_is_told_the_known_ones():
    assert _schema().task_columns() == ("user_id",)
    assert _schema().task_columns("user_tab") == ("user_id", "tab")
    with pytest.raises(SchemaError, match=r"'tab'.*\['user', 'user_tab'\]"):
        _schema().task_columns("tab")


def test_times_are_milliseconds_utc_unless_an_offset_is_given():
    assert parse_time("1970-01-02") == 86_400_000
    assert parse_time("1970-01-01T02:00:00+02:00") == 0


def test_split_ranges_are_half_open():
    split = Split(
        train_start="1970-01-02",
        validation_start="1970-01-03",
        test_start="1970-01-04",
        test_end="1970-01-05",
    )
    day = 86_400_000
    found = [
        split.name_of(t)
        for t in (day - 1, day, 2 * day - 1, 2 * day, 3 * day, 4 * day - 1, 4 * day)
    ]
    assert found == [None, "train", "train", "validation", "test", "test", None]


@pytest.mark.parametrize(
    ("feature", "filler"),
    [
        (Feature(name="x"), 0.0),
        (Feature(name="x", dtype="int64", fill_value=3.7), 3),
        (Feature(name="x", dtype="string", encoding="vocabulary"), ""),
        (Feature(name="x", dtype="string", encoding="vocabulary", fill_value="none"), "none"),
    ],
)
def test_fillers_have_their_features_type(feature, filler):
    assert feature.default_value == filler
    assert type(feature.default_value) is type(filler)
