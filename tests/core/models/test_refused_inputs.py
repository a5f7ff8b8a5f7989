"""What a model refuses, and what its loops tell."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import small_model, task_batch, task_batches
from toys import toy_schema, toy_statistics

from tfrec_limaml import DotProductGlobalBlock, LiMAML, MLPMetaBlock, OffsetMetaBlock, Vanilla
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.export.savedmodels import export_for_serving
from tfrec_limaml.schema.schema import Feature, Label
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder

ROLES = {"a": "meta", "b": "other"}


@pytest.fixture(scope="module")
def built():
    model = small_model()
    model.build({"meta": (None, 3), "other": (None, 2)})
    return model


@pytest.mark.parametrize("data", [np.zeros((10, 3)), [1, 2], tf.zeros([3, 2])])
def test_arrays_in_place_of_a_dataset_are_refused(built, data):
    for loop in (built.fit, built.evaluate, built.predict, built.train_on_batch):
        with pytest.raises(LimamlError, match=r"expected a tf\.data\.Dataset of task batches"):
            loop(data)


def test_a_dataset_of_other_features_is_refused_by_their_names(built):
    batch = task_batch(np.random.default_rng(0))
    for part in batch.values():
        part["features"] = {"meta": part["features"]["other"], "topic": part["features"]["other"]}
    with pytest.raises(LimamlError, match=r"no 'other'; meta \(2,\) in place of \(3,\)\. Make the"):
        built.fit(tf.data.Dataset.from_tensors(batch))
    with pytest.raises(ValueError, match=r"\['other'\] are missing, received \['meta'\]"):
        built({"meta": tf.zeros([1, 3])})


def test_a_feature_that_the_model_s_encoder_does_not_make_is_refused_by_its_name():
    def batches(*further):
        batch = task_batch(np.random.default_rng(0))
        for part in batch.values():
            one = part["features"]["other"][..., :1]
            part["features"] = dict.fromkeys(("meta", "other", *further), one)
        return tf.data.Dataset.from_tensors(batch)

    model = _encoded()
    model.compile("sgd", run_eagerly=True)
    for loop in (model.fit, model.evaluate, model.predict):
        with pytest.raises(LimamlError, match=r"'brand' is new\. Make .*\(model\.encoder\)"):
            loop(batches("brand"), verbose=0)
    assert np.isfinite(model.evaluate(batches("subtask:tab", "joint:side"), verbose=0)[0])


def test_an_epoch_that_is_shorter_than_its_steps_is_told():
    model = small_model()
    with pytest.warns(UserWarning, match="ran out of data"):
        model.fit(task_batches(batches=3), steps_per_epoch=2, epochs=2, verbose=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.fit(task_batches(batches=3), epochs=1, verbose=0)


def test_a_batch_without_tasks_does_not_dilute_the_loss():
    rng = np.random.default_rng(0)
    full, empty = task_batch(rng), task_batch(rng)
    for part in empty.values():
        part["weight"] = np.zeros_like(part["weight"])
    losses = []
    for batches in ([full], [full, empty, empty]):
        model = small_model()
        stacked = tf.nest.map_structure(lambda *x: np.stack(x), *batches, batches[-1])
        data = tf.data.Dataset.from_tensor_slices(stacked).take(len(batches))
        losses.append(model.fit(data, verbose=0).history["loss"][0])
    assert losses[0] == pytest.approx(losses[1])


def _encoded(kind="binary"):
    """A model with an encoder of two numbers."""
    features = [Feature(name=name, role=role, normalise="none") for name, role in ROLES.items()]
    schema = toy_schema(*features).replace(label=Label(name="y", kind=kind))
    encoder = FeatureEncoder(schema, toy_statistics())
    return LiMAML(OffsetMetaBlock((4,), 3), DotProductGlobalBlock((4,)), encoder=encoder)


def test_a_label_that_is_not_binary_needs_a_regression_loss():
    model = _encoded("regression")
    with pytest.raises(ValueError, match=r"label 'y' is not binary .*loss='mse'"):
        model.compile("adam")
    model.compile("adam", loss="mse")
    with pytest.raises(ValueError, match=r"label 'y' is not binary .*binary=False"):
        model.compile("adam", _own_cross_entropy, binary=True)
    model.compile("adam", _own_cross_entropy)
    assert not model.binary


@keras.saving.register_keras_serializable("own_losses")
def _own_cross_entropy(label, logit):
    return tf.nn.sigmoid_cross_entropy_with_logits(label, logit)[:, 0]


@pytest.mark.parametrize(("binary", "expected"), [(None, True), (False, False)])
def test_a_loss_of_ones_own_is_binary_as_the_label_is_unless_it_is_said(binary, expected, tmp_path):
    model = _encoded()
    model.compile("adam", _own_cross_entropy, binary=binary, run_eagerly=True)
    model.save(tmp_path / "own.keras")
    for compiled in (True, False):
        loaded = keras.saving.load_model(tmp_path / "own.keras", compile=compiled)
        assert loaded.binary == expected
    assert export_for_serving(model, tmp_path).binary == expected


def test_a_binary_loss_of_ones_own_is_measured_as_the_built_in_one_is():
    batch, measured = task_batch(np.random.default_rng(0)), []
    for options in ({}, {"loss": _own_cross_entropy, "binary": True}):
        model = small_model(inner_steps=1)
        model.compile("sgd", **options, run_eagerly=True)
        measured.append(model.test_on_batch(batch, return_dict=True))
    assert measured[1] == pytest.approx(measured[0], rel=1e-5)
    assert "unadapted_auc" in measured[1]


def test_a_loss_of_keras_knows_whether_it_is_binary(built):
    with pytest.raises(LimamlError, match="binary=True contradicts the loss 'mse'; leave binary"):
        built.compile("adam", "mse", binary=True)


@pytest.mark.parametrize("traced", [False, True])
def test_labels_and_weights_out_of_range_are_refused_with_their_value(traced):
    model = small_model(inner_steps=1, traced=traced)
    loops = (
        model.train_on_batch,
        model.test_on_batch,
        lambda batch: model.fit(tf.data.Dataset.from_tensors(batch), verbose=0),
        lambda batch: model.evaluate(tf.data.Dataset.from_tensors(batch), verbose=0),
    )
    for column, value, message in (
        ("label", -1.0, r"labels must be between 0 and 1 .*, such as mse.* in the query set: -1"),
        ("label", 5.0, r"labels must be between 0 and 1 .* in the query set: 5"),
        ("weight", -2.0, r"weights must be at least 0; .* in the query set: -2"),
    ):
        batch = task_batch(np.random.default_rng(0))
        batch["query"]["weight"][1, 1] = 1.0
        batch["query"][column][1, 1] = value
        for loop in loops:
            with pytest.raises(LimamlError, match=message):
                loop(batch)
    padded = task_batch(np.random.default_rng(0))
    padded["query"]["weight"][1, 1], padded["query"]["label"][1, 1] = 0.0, -1.0
    assert 0 < model.train_on_batch(padded) < 10
    regression = small_model()
    regression.compile("sgd", "mse", run_eagerly=True)
    regression.train_on_batch({**batch, "query": {**padded["query"], "label": 5 * np.ones([8, 3])}})


def test_xla_which_has_no_errors_leaves_out_a_task_whose_label_is_out_of_range():
    model, batch = small_model(Vanilla), task_batch(np.random.default_rng(0))
    model.compile("sgd", jit_compile=True)
    batch["query"]["weight"][1, 1], batch["query"]["label"][1, 1] = 1.0, -1.0
    model.train_on_batch(batch)
    assert int(model.dropped_tasks.value) == 1


@pytest.mark.parametrize("name", ["inner_steps", "fine_tune_steps", "second_order_steps"])
def test_numbers_of_steps_are_whole(built, name):
    with pytest.raises(ValueError, match=rf"{name} must be a whole number, received 1\.5"):
        setattr(built, name, 1.5)
    with pytest.raises(ValueError, match=rf"{name} must be a whole number, received inf"):
        setattr(built, name, np.inf)
    assert getattr(LiMAML, name).name == name
    with pytest.raises(ValueError, match=r"embedding_dim must be a whole number, received 2\.5"):
        MLPMetaBlock((4,), 2.5)
    with pytest.raises(ValueError, match="embedding_dim must be a number, received '8'"):
        MLPMetaBlock((4,), "8")


def test_predictions_in_half_precision_are_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = small_model()
    finally:
        keras.config.set_dtype_policy("float32")
    rows = model.predict(task_batches(batches=1), verbose=0)
    assert rows["probability"].dtype == np.float32


def test_a_diverged_model_is_not_exported(tmp_path):
    model = _encoded()
    weight = model.trainable_variables[0]
    weight.assign(np.full(weight.shape, np.nan))
    with pytest.raises(LimamlError, match="are not finite: training has diverged"):
        export_for_serving(model, tmp_path)
