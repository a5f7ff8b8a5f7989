"""The exported ranker against the model that it was made from."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.export.savedmodels import export_for_serving

DIM = 3


def test_the_ranker_scores_like_the_model_with_and_without_an_embedding(
    model, ranker, request_inputs
):
    scores = ranker.signatures["serving_default"](**request_inputs)
    features = model.encoder(
        {f.name: request_inputs[f.name] for f in model.encoder.schema.all_features}
    )
    unadapted, stored = (
        model(features),
        tf.sigmoid(model.global_block(features, request_inputs["meta_embedding"])),
    )
    has = request_inputs["has_meta_embedding"].numpy()
    np.testing.assert_allclose(scores["probability"], np.where(has, stored, unadapted), rtol=1e-5)
    np.testing.assert_allclose(tf.sigmoid(scores["logit"]), scores["probability"], rtol=1e-5)
    assert np.abs(unadapted - stored).max() > 1e-2, (
        "the two must differ for this test to mean anything"
    )


def test_an_embedding_that_does_not_count_may_hold_anything(ranker, request_inputs):
    nothing = {**request_inputs, "has_meta_embedding": tf.zeros(6, bool)}
    call = ranker.signatures["serving_default"]
    with_nan = call(**{**nothing, "meta_embedding": tf.fill([6, DIM], np.nan)})
    without = call(**nothing)["logit"]
    np.testing.assert_array_equal(with_nan["logit"], without)  # one program, the same shapes


# Inputs of one row: all of the member, two meta features, the embedding, no meta feature, none.
MEMBER = ("age", "look", "class", "meta_embedding", "has_meta_embedding")


@pytest.mark.parametrize("per_member", [MEMBER, MEMBER[1:3], MEMBER[3:], ("Größe in cm",), ()])
def test_rank_repeats_inputs_of_length_one(ranker, request_inputs, per_member):
    once = {n: v[:1] if n in per_member else v for n, v in request_inputs.items()}
    repeated = {
        n: tf.repeat(v[:1], 6, 0) if n in per_member else v for n, v in request_inputs.items()
    }
    expected = ranker.signatures["serving_default"](**repeated)
    np.testing.assert_allclose(
        ranker.signatures["rank"](**once)["probability"], expected["probability"], 1e-5, 1e-6
    )
    assert len(set(expected["probability"].numpy().tolist())) == 6


@pytest.mark.parametrize("name", ["look", "Größe in cm", "meta_embedding"])
def test_rank_refuses_other_lengths_by_the_inputs_name(ranker, request_inputs, name):
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        ranker.signatures["rank"](**{**request_inputs, name: request_inputs[name][:2]})
    said = str(caught.value)
    assert "must have 1 row or as many as the longest input" in said
    assert name in said


def _example(inputs, schema, row, leave_out=()):
    features = {}
    for name, values in inputs.items():
        if name in leave_out or name == "has_meta_embedding":
            continue
        value = np.atleast_1d(np.asarray(values[row]))
        if value.dtype == object:
            features[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=list(value)))
        elif value.dtype == np.int64:
            features[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=value))
        else:
            features[name] = tf.train.Feature(float_list=tf.train.FloatList(value=value))
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def test_examples_score_like_tensors(model, ranker, request_inputs):
    has = request_inputs["has_meta_embedding"].numpy()
    examples = [
        _example(request_inputs, model.encoder.schema, i, () if has[i] else ("meta_embedding",))
        for i in range(6)
    ]
    scores = ranker.signatures["serve_examples"](examples=tf.constant(examples))
    np.testing.assert_allclose(
        scores["logit"], ranker.signatures["serving_default"](**request_inputs)["logit"], rtol=1e-5
    )


def test_an_example_may_lack_what_the_schema_fills_and_nothing_else(model, ranker, request_inputs):
    call = ranker.signatures["serve_examples"]
    short = _example(request_inputs, model.encoder.schema, 0, ("page/kind", "visits"))
    filled = {n: v[:1] for n, v in request_inputs.items()} | {
        "page/kind": tf.constant(["none"]),
        "visits": tf.constant([0], tf.int64),
    }
    np.testing.assert_allclose(
        call(examples=tf.constant([short]))["logit"],
        ranker.signatures["serving_default"](**filled)["logit"],
        rtol=1e-5,
    )
    for name in ("Größe in cm", "look"):
        with pytest.raises(tf.errors.InvalidArgumentError, match=name):
            call(examples=tf.constant([_example(request_inputs, model.encoder.schema, 0, (name,))]))


def test_an_example_with_an_embedding_of_another_width_is_refused(model, ranker, request_inputs):
    wide = {**request_inputs, "meta_embedding": tf.zeros([6, DIM + 1])}
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="meta_embedding must hold 3 values or none"
    ):
        ranker.signatures["serve_examples"](
            examples=tf.constant([_example(wide, model.encoder.schema, 0)])
        )


def test_a_ranker_of_a_regression_loss_predicts_values_under_a_name_of_their_own(
    make_model, request_inputs, tmp_path
):
    model = make_model()
    model.compile("adam", "mse")
    assert export_for_serving(model, tmp_path).outputs == ("prediction",)
    loaded = tf.saved_model.load(str(tmp_path / "ranker" / "1"))
    names = [f.name for f in model.encoder.schema.all_features]
    expected = model(model.encoder({name: request_inputs[name] for name in names}))
    nothing = {**request_inputs, "has_meta_embedding": tf.zeros(6, bool)}
    for name in ("serving_default", "rank"):
        scores = loaded.signatures[name](**nothing)
        assert list(scores) == ["prediction"]
        np.testing.assert_allclose(scores["prediction"], expected, rtol=1e-5, atol=1e-6)
