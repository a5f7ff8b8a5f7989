import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.adaptation.real_rows import RealRows

WEIGHT = tf.constant([[1.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 2.0, 1.0]])


def _random(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape))


def test_rows_of_weight_zero_are_left_out_and_come_back_as_copies():
    rows, values = RealRows(WEIGHT), _random(3, 3, 2)
    real = rows.take(values)
    np.testing.assert_array_equal(real, values.numpy()[WEIGHT.numpy() > 0])
    spread = rows.spread(real).numpy()
    np.testing.assert_array_equal(spread[WEIGHT > 0], real)
    np.testing.assert_array_equal(spread[0, 2], real[1])
    np.testing.assert_array_equal(spread[1], [real[1]] * 3)


def test_ids_and_features_of_any_rank_are_taken():
    rows = RealRows(WEIGHT)
    features = {"id": tf.reshape(tf.range(9), [3, 3]), "hot": _random(3, 3, 2, 2)}
    taken = rows.take_features(features)
    np.testing.assert_array_equal(taken["id"], [0, 1, 7, 8])
    assert taken["hot"].shape == (4, 2, 2)


def test_first_and_second_derivatives_are_those_of_rows_one_by_one():
    rows, values, scale = RealRows(WEIGHT), _random(3, 3, 2), tf.Variable(_random(2))
    weight = tf.cast(WEIGHT, tf.float64)

    def loss(of_rows):
        with tf.GradientTape() as outer:
            outer.watch(values)
            with tf.GradientTape() as inner:
                inner.watch(values)
                outputs = of_rows(lambda v: tf.reduce_sum(tf.sin(v * scale), -1))
                first = tf.reduce_sum(weight * outputs**2)
            slope = inner.gradient(first, values)
            second = tf.reduce_sum(slope**3)
        return [first, slope, *outer.gradient(second, [values, scale])]

    actual = loss(lambda layer: rows.spread(layer(rows.take(values))))
    expected = loss(lambda layer: layer(values))
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-12)


def test_a_batch_without_real_rows_keeps_one_for_layers_that_need_rows():
    rows = RealRows(tf.zeros([2, 3]))
    assert rows.take(_random(2, 3, 4)).shape == (1, 4)
    assert RealRows(tf.zeros([2, 0])).take(tf.zeros([2, 0, 4])).shape == (0, 4)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_only_a_weight_of_zero_marks_padding(weight):
    rows = RealRows(tf.constant([[1.0, weight, 0.0]]))
    np.testing.assert_array_equal(rows.take(tf.constant([[1, 2, 3]])), [1, 2])


def test_padding_is_kept_for_xla():
    rows, values = RealRows(WEIGHT, keep_padding=True), _random(3, 3, 2)
    np.testing.assert_array_equal(rows.take(values), tf.reshape(values, [9, 2]))
    np.testing.assert_array_equal(rows.spread(rows.take(values)), values)
