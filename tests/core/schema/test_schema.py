"""The schema and task keys: round trips, fingerprints, errors that say what to do."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from toys import news_schema

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
#: Names of task definitions and tables, which are also those of a folder or file.
FILE_NAMES = NAMES.filter(lambda n: not n.startswith(".") and not {"/", "\\"} & set(n))


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
        "fill_value": draw(st.none() | st.sampled_from([-1.0, 2.5 if dtype != "int64" else 2.0])),
        "on_invalid": draw(st.sampled_from(["fill", "skip", "error"])),
    }


@st.composite
def _schemas(draw):
    reserved = ("label", "timestamp", "weight", "meta_embedding", "has_meta_embedding")
    names = draw(
        st.lists(NAMES.filter(lambda n: n not in reserved), min_size=4, max_size=6, unique=True)
    )
    label, carried, first, *others = names
    assume(label not in ("user_id", "tab"))  # the keys of the history features
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
                FILE_NAMES,
                st.lists(NAMES.filter(lambda n: n != label), min_size=1, max_size=3).map(tuple),
                min_size=1,
                max_size=3,
            )
        ),
        features=tuple(features),
        tables=draw(st.dictionaries(FILE_NAMES, NAMES, max_size=2)),
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
    schema = news_schema(name="größe")
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
                    dataclasses.replace(news_schema().features[0], **change),
                    news_schema().features[1],
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
                    news_schema().features[0],
                    dataclasses.replace(news_schema().features[1], **change),
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
        {"features": news_schema().features[::-1]},
    ],
    ids=str,
)
def test_whatever_changes_what_a_model_sees_changes_the_fingerprint(changes):
    assert news_schema(**changes).fingerprint() != news_schema().fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"split": Split(validation_start="2024-01-02", test_start="2024-01-03")},
        {"carry": ("dwell",)},
        {"tasks": {"user_tab": ("user_id", "tab"), "user": ("user_id",)}},
        {
            "features": (
                Feature(name="age", role="meta", normalise="standard", width=1),
                news_schema().features[1],
            )
        },
    ],
    ids=str,
)
def test_splits_carried_columns_and_written_out_defaults_leave_the_fingerprint(changes):
    assert news_schema(**changes).fingerprint() == news_schema().fingerprint()


def test_the_fingerprint_is_stable_over_releases():
    """It lies in manifests of models that are in service: a change here orphans them."""
    assert news_schema().fingerprint() == "59a56800eadaa8e5"


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
    schema = news_schema(history=(history,))
    assert Schema.from_dict(schema.to_dict()) == schema
    assert schema.fingerprint() != news_schema(history=(History(keys=("a",)),)).fingerprint()


def test_times_are_milliseconds_utc_unless_an_offset_is_given():
    assert parse_time("1970-01-02") == 86_400_000
    assert parse_time("1970-01-01T02:00:00+02:00") == 0


@pytest.mark.parametrize(
    ("feature", "default"),
    [
        (Feature(name="x"), 0.0),
        (Feature(name="x", dtype="int64", fill_value=3.0), 3),
        (Feature(name="x", dtype="string", encoding="vocabulary"), ""),
        (Feature(name="x", dtype="string", encoding="vocabulary", fill_value="none"), "none"),
    ],
)
def test_default_values_have_their_features_type(feature, default):
    assert feature.default_value == default
    assert type(feature.default_value) is type(default)
