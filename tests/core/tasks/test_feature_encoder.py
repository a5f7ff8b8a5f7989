"""The feature encoder against a computation in NumPy, for every kind of feature."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from toys import toy_schema

from tfrec_limaml.errors import SchemaError
from tfrec_limaml.features import feature_specs
from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.quantile_statistics import quantile_statistics
from tfrec_limaml.tasks.quantiles import encode_quantiles
from tfrec_limaml.tasks.statistics import Statistics


def _hash(values, buckets):
    """Keras hashes the text of a value."""
    return tf.strings.to_hash_bucket_fast(tf.constant([str(v) for v in values]), buckets).numpy()


def _expected(feature, values, found):
    """Independent of the encoder: NumPy, token by token."""
    if feature.encoding == "numeric":
        x = values.astype(np.float64).reshape(len(values), -1)
        if feature.normalise == "none":
            return x
        if feature.normalise == "log":
            x = np.sign(x) * np.log1p(np.abs(x))
        return (x - found["mean"]) / np.maximum(np.sqrt(found["variance"]), 1e-6)
    cells = (
        [str(v).split(feature.separator) for v in values]
        if feature.separator is not None
        else [[v] for v in values]
    )
    if feature.encoding == "hash":
        size = feature.buckets
        ids = [_hash(tokens, size) for tokens in cells]
    else:
        known = found["vocabulary"][: feature.max_vocabulary]
        size = len(known) + 1
        ids = [[known.index(t) + 1 if t in known else 0 for t in tokens] for tokens in cells]
    if feature.separator is None and feature.embedding_width is not None:
        return np.array([i[0] for i in ids])
    hot = np.zeros((len(values), size))
    for row, tokens in enumerate(ids):
        hot[row, list(tokens)] = 1
    return hot


@pytest.mark.parametrize("graph", [False, True])
def test_every_kind_of_feature_is_encoded_as_numpy_does(
    every_kind, encoder, make_rows, as_columns, graph
):
    schema, statistics = every_kind
    columns = as_columns(make_rows(60))
    call = tf.function(encoder.call) if graph else encoder
    encoded = call({name: tf.constant(value) for name, value in columns.items()})
    dense = {"meta": [], "other": []}
    for feature in schema.all_features:
        expected = _expected(feature, columns[feature.name], statistics.features.get(feature.name))
        if feature.embedding_width is None:
            dense[feature.role].append(expected)
        else:
            np.testing.assert_array_equal(encoded[feature.name], expected, err_msg=feature.name)
            assert encoded[feature.name].dtype == (
                tf.int32 if feature.separator is None else tf.float32
            )
    for role, parts in dense.items():
        np.testing.assert_allclose(
            encoded[role], np.concatenate(parts, -1), rtol=1e-5, atol=1e-6, err_msg=role
        )
    assert {n: (None, *v.shape[1:]) for n, v in encoded.items()} == encoder.output_shapes


def test_the_slices_of_a_role_name_the_columns_of_each_feature(
    every_kind, encoder, make_rows, as_columns
):
    schema, statistics = every_kind
    columns = as_columns(make_rows(60))
    encoded = encoder({name: tf.constant(value) for name, value in columns.items()})
    for role in ("meta", "other"):
        slices = encoder.slices(role)
        dense = {f.name: f for f in schema.all_features if f.role == role and not f.embedding_width}
        assert list(slices) == list(dense)
        for name, feature in dense.items():
            expected = _expected(feature, columns[name], statistics.features.get(name))
            np.testing.assert_allclose(
                encoded[role][:, slices[name]], expected, rtol=1e-5, atol=1e-6, err_msg=name
            )
        assert sum(s.stop - s.start for s in slices.values()) == encoder.output_shapes[role][1]


def _one(feature, value, **found):
    schema = toy_schema(feature)
    statistics = Statistics(
        rows=1, label_mean=0.5, window={}, features={feature.name: found} if found else {}
    )
    encoded = FeatureEncoder(schema, statistics)({feature.name: tf.constant(value)})
    return (
        encoded["meta"].numpy().tolist()
        if feature.embedding_width is None
        else encoded[feature.name].numpy().tolist()
    )


def test_numbers_are_standardised_by_the_training_rows_moments():
    assert _one(Feature(name="x", role="meta"), [50.0, 40.0], mean=[40.0], variance=[25.0]) == [
        [2.0],
        [0.0],
    ]


def test_a_constant_column_does_not_divide_by_zero():
    assert _one(Feature(name="x", role="meta"), [3.0], mean=[3.0], variance=[0.0]) == [[0.0]]


def test_the_logarithm_keeps_the_sign():
    e = float(np.e) - 1
    values = _one(
        Feature(name="x", role="meta", normalise="log"), [e, 0.0, -e], mean=[0.0], variance=[1.0]
    )
    np.testing.assert_allclose(values, [[1.0], [0.0], [-1.0]], rtol=1e-6)


def test_unknown_tokens_share_the_first_place_and_only_the_most_frequent_have_their_own():
    feature = Feature(
        name="x", role="meta", dtype="string", encoding="vocabulary", max_vocabulary=2
    )
    values = _one(feature, ["a", "b", "c", "?"], vocabulary=["b", "a", "c"], counts=[3, 2, 1])
    assert values == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("dtype", "token", "others", "separator"),
    [
        ("string", "[UNK]", ["a", "b"], None),
        ("string", "[UNK]", ["a", "b"], "|"),
        ("int64", -1, [5, 6], None),
    ],
)
def test_a_token_that_keras_reserves_is_a_value_unless_an_older_model_drops_it(
    dtype, token, others, separator
):
    feature = Feature(
        **{"name": "x", "role": "meta", "dtype": dtype, "encoding": "vocabulary"},
        embedding_width=2,
        separator=separator,
    )
    statistics = Statistics(
        rows=6,
        label_mean=0.5,
        window={},
        features={"x": {"vocabulary": [others[0], token, others[1]], "counts": [3, 2, 1]}},
    )
    encoder = FeatureEncoder(toy_schema(feature), statistics)
    unknown = {"string": "zz", "int64": 99}[dtype]
    columns = {"x": tf.constant([token, *others, unknown])}

    def ids(encoder):
        encoded = encoder(columns)["x"].numpy()
        return (encoded.argmax(-1) if separator else encoded).tolist()

    assert ids(encoder) == [2, 1, 3, 0]
    assert encoder.counts(feature) == [0, 3, 2, 1]
    again = FeatureEncoder.from_config(encoder.get_config())
    assert ids(again) == [2, 1, 3, 0]
    older = {k: v for k, v in encoder.get_config().items() if k != "drop_reserved"}
    assert ids(FeatureEncoder.from_config(older)) == [0, 1, 2, 0]


def test_several_values_switch_on_several_places_once_each():
    feature = Feature(name="x", role="meta", dtype="string", encoding="vocabulary", separator="|")
    values = _one(feature, ["a|b|a", "b", "", "?|a", "|"], vocabulary=["a", "b"], counts=[2, 1])
    assert values == [[0, 1, 1], [0, 0, 1], [1, 0, 0], [1, 1, 0], [1, 0, 0]]


def test_hashes_do_not_change_from_release_to_release():
    """Stored models depend on them: these ids are written down, not computed."""
    text = Feature(
        name="x", role="meta", dtype="string", encoding="hash", buckets=1000, embedding_width=1
    )
    number = Feature(
        name="x", role="meta", dtype="int64", encoding="hash", buckets=1000, embedding_width=1
    )
    assert _one(text, ["home", "ça", ""]) == [153, 649, 263]
    assert _one(number, [0, 7, -1, 2**62]) == [735, 88, 430, 503]


def test_columns_that_are_missing_are_named(encoder, make_rows, as_columns):
    columns = {
        n: tf.constant(v)
        for n, v in as_columns(make_rows(2)).items()
        if n not in ("land.code", "tags")
    }
    with pytest.raises(
        SchemaError,
        match=r"lacks the columns \['land.code', 'tags'\] of schema 'every-kind'; received \['Größe in cm'",  # noqa: E501
    ):
        encoder(columns)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({}, "statistics lack feature 'kind'.*limaml prepare"),
        ({"kind": {"vocabulary": []}}, "empty vocabulary for feature 'kind'"),
    ],
)
def test_statistics_that_do_not_fit_are_refused_by_the_features_name(found, said):
    feature = Feature(name="kind", role="meta", dtype="string", encoding="vocabulary")
    schema = toy_schema(feature)
    with pytest.raises(SchemaError, match=said):
        FeatureEncoder(schema, Statistics(rows=1, label_mean=0.5, window={}, features=found))


def test_sizes_and_widths_for_the_blocks_follow_the_schema(encoder):
    assert encoder.embeddings() == {"item": (7, 2), "class": (3, 2), "words": (6, 2)}
    assert encoder.embeddings("meta") == {"class": (3, 2)}
    assert encoder.output_shapes["meta"] == (None, 1 + 3 + 4 + 4)
    assert encoder.output_shapes["other"] == (None, 1 + 1 + 3 + 6)


def test_a_saved_model_encodes_as_before(tmp_path, every_kind, make_model, make_rows, as_columns):
    columns = {n: tf.constant(v) for n, v in as_columns(make_rows(20)).items()}
    model = make_model()
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert restored.encoder.schema == every_kind[0]
    assert restored.encoder.statistics == every_kind[1]
    before, after = model.encoder(columns), restored.encoder(columns)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    np.testing.assert_allclose(restored(after), model(before), rtol=1e-6)


def test_statistics_round_trip_and_name_a_file_that_is_missing_or_broken(tmp_path, every_kind):
    path = tmp_path / "statistics.json"
    with pytest.raises(SchemaError, match=r"no statistics at .*statistics\.json; `limaml prepare`"):
        Statistics.load(path)
    every_kind[1].save(path)
    assert Statistics.load(path) == every_kind[1]
    for text in ("{", '{"rows": 1}'):
        path.write_text(text)
        with pytest.raises(SchemaError, match=r"cannot read statistics .*statistics\.json"):
            Statistics.load(path)


def test_numbers_that_are_encoded_together_are_those_of_each_feature_alone():
    rng = np.random.default_rng(0)
    kinds = {  # name: (width, encoding, transform, role)
        "a": (1, "quantiles", "log", "meta"),
        "b": (2, "quantiles", "standard", "other"),
        "c": (1, "numeric", "log", "other"),
        "d": (1, "quantiles", "standard", "meta"),
        "e": (2, "numeric", "none", "other"),
        "f": (1, "quantiles", "log", "other"),
        "g": (1, "numeric", "standard", "meta"),
    }
    features, statistics, columns, expected = [], {}, {}, {"meta": [], "other": []}
    for bins, (name, (width, encoding, transform, role)) in enumerate(kinds.items(), 3):
        raw = rng.gamma(2.0, 3.0, (50, width)).astype(np.float32)
        value = np.log1p(raw) if transform == "log" else raw
        entry = {"mean": value.mean(0).tolist(), "variance": value.var(0).tolist()}
        if encoding == "quantiles":
            entry |= quantile_statistics(value.astype(np.float64), bins)
            alone = encode_quantiles(tf.constant(value), entry).numpy()
        else:
            alone = value if transform == "none" else (value - value.mean(0)) / value.std(0)
        features.append(
            Feature(name=name, width=width, encoding=encoding, normalise=transform, role=role)
        )
        statistics[name], columns[name] = entry, tf.constant(raw[:, 0] if width == 1 else raw)
        expected[role].append(alone)
    schema = toy_schema(*features)
    known = Statistics(rows=50, label_mean=0.5, window={}, features=statistics)
    encoder = FeatureEncoder(schema, known)
    for role, parts in expected.items():
        actual = encoder(columns)[role].numpy()
        np.testing.assert_allclose(actual, np.concatenate(parts, 1), rtol=1e-4, atol=1e-5)


def test_encoded_features_have_the_types_of_their_specifications(every_kind, make_rows, as_columns):
    encoder = FeatureEncoder(*every_kind, nested=("member_tab",))
    columns = {name: tf.constant(v) for name, v in as_columns(make_rows(3)).items()}
    types = {name: value.dtype for name, value in encoder(columns).items()}
    specs = feature_specs(encoder.output_shapes)
    assert types == {name: spec.dtype for name, spec in specs.items()}
    assert types["subtask:member_tab"] == tf.int64
