"""Piecewise-linear encoding over quantiles."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from toys import toy_schema

from tfrec_limaml.schema.schema import Feature
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.tasks.quantile_statistics import encoded_width, quantile_statistics
from tfrec_limaml.tasks.quantiles import encode_quantiles
from tfrec_limaml.tasks.statistics import Statistics


def _statistics(sample, bins=4):
    moments = {"mean": sample.mean(0).tolist(), "variance": sample.var(0).tolist()}
    return {**moments, **quantile_statistics(sample, bins)}


def test_components_rise_from_zero_to_one_across_their_bin():
    statistics = {
        "mean": [0.0],
        "variance": [1.0],
        "edges": [[0.0, 1.0, 3.0]],
        "component_mean": [[0.0, 0.0]],
        "component_deviation": [[0.5, 0.5]],
    }
    found = encode_quantiles(tf.constant([[-1.0], [0.5], [2.0], [9.0]]), statistics).numpy()
    np.testing.assert_allclose(found[:, 0], [-1, 0.5, 2, 5], err_msg="the value, clipped to 5")
    components = np.array([[0, 0], [0.5, 0], [1, 0.5], [1, 1]])
    np.testing.assert_allclose(found[:, 1:], components / (0.5 * np.sqrt(2)), rtol=1e-6)


def test_a_component_that_hardly_varies_is_not_scaled_up_without_limit():
    statistics = {
        "mean": [0.0],
        "variance": [1.0],
        "edges": [[0.0, 1.0]],
        "component_mean": [[0.0]],
        "component_deviation": [[0.001]],
    }
    found = encode_quantiles(tf.constant([[1.0]]), statistics).numpy()
    np.testing.assert_allclose(found, [[1.0, 1 / 0.05]])


def test_on_training_rows_the_components_of_a_feature_have_unit_variance_together():
    random = np.random.default_rng(0)
    sample = np.stack([random.normal(size=5000), random.exponential(size=5000)], 1)
    statistics = _statistics(sample, bins=16)
    found = encode_quantiles(tf.constant(sample, tf.float32), statistics).numpy()
    assert found.shape == (5000, encoded_width(statistics)) == (5000, 2 * 17)
    np.testing.assert_allclose(found[:, 2:].mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(found[:, 2:18].var(0).sum(), 1, rtol=1e-3)
    np.testing.assert_allclose(found[:, 18:].var(0).sum(), 1, rtol=1e-3)


def test_a_value_that_many_rows_share_makes_for_fewer_bins_and_a_constant_for_none():
    sample = np.stack([np.repeat([0.0, 1.0], [90, 10]), np.full(100, 7.0)], 1)
    statistics = _statistics(sample, bins=16)
    assert statistics["edges"] == [[0.0, 1.0], []]
    found = encode_quantiles(tf.constant([[1.0, 7.0], [0.0, 8.0]]), statistics).numpy()
    assert found.shape == (2, encoded_width(statistics)) == (2, 3)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("normalise", ["standard", "log", "none"])
def test_the_encoder_encodes_what_the_schema_declares(normalise):
    feature = Feature(name="age", role="meta", encoding="quantiles", bins=4, normalise=normalise)
    schema = toy_schema(feature, label="y", timestamp="t", tasks={"u": ("u",)})
    raw = np.random.default_rng(1).exponential(10, (400, 1))
    sample = np.log1p(raw) if normalise == "log" else raw
    statistics = Statistics(
        rows=400, label_mean=0.5, window={}, features={"age": _statistics(sample)}
    )
    encoder = FeatureEncoder(schema, statistics)
    found = encoder({"age": tf.constant(raw[:, 0], tf.float32)})["meta"]
    expected = encode_quantiles(tf.constant(sample, tf.float32), statistics.features["age"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.shape[1] == encoder.output_shapes["meta"][1] == 5
