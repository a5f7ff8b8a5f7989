"""What users of Keras do with any model: they change settings, freeze, save, pass other types."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import small_model, task_batch, task_batches

from tfrec_limaml import (
    DotProductGlobalBlock,
    EntireNetworkMAML,
    LiMAML,
    MLPGlobalBlock,
    MLPMetaBlock,
    OffsetMetaBlock,
    Vanilla,
)
from tfrec_limaml.blocks import KerasMetaBlock
from tfrec_limaml.errors import LimamlError

pytestmark = pytest.mark.slow


def _of_few_operations(traced, **options):
    """Metrics and Adam are the larger part of a small model's graphs."""
    model = small_model(traced=traced, **options)
    model.compile(keras.optimizers.SGD(0.05), metrics=[], run_eagerly=not traced)
    return model


def test_settings_that_are_changed_after_training_hold_for_traced_functions_too():
    dataset = task_batches()
    changes = {
        "fine_tune_steps": 2,
        "inner_learning_rate": 3.0,
        "inner_steps": 2,
        "unadapted_loss_weight": 1.0,
    }

    def losses(traced):
        model = _of_few_operations(traced, averaging="sample")
        for settings in ({}, changes):
            for name, value in settings.items():
                setattr(model, name, value)
            loss = model.fit(dataset, verbose=0).history["loss"][0]
            adapted = model.predict(dataset, verbose=0)["probability"]
            yield [loss, model.evaluate(dataset, verbose=0), *adapted]

    for actual, expected in zip(losses(traced=True), losses(traced=False), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_a_callback_may_change_a_setting_of_the_training_that_it_watches():
    class Slower(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.inner_learning_rate /= 4
            self.model.fine_tune_steps += 1

    dataset = task_batches()
    curves = [
        _of_few_operations(traced)
        .fit(dataset, validation_data=dataset, epochs=2, verbose=0, callbacks=[Slower()])
        .history
        for traced in (True, False)
    ]
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(curves[0][name], curves[1][name], rtol=1e-4, err_msg=name)


def test_a_setting_that_is_changed_to_what_it_cannot_be_is_refused_and_kept():
    model = small_model()
    for name, value in {
        "fine_tune_steps": -1,
        "averaging": "rows",
        "inner_learning_rate": -1,
    }.items():
        before = getattr(model, name)
        with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
            setattr(model, name, value)
        assert getattr(model, name) == before


@pytest.mark.parametrize(("label", "weight"), [("int64", "int32"), ("bool", "bool"), ("f2", "f4")])
def test_labels_and_weights_of_any_type_mean_what_they_mean_as_floats(label, weight):
    def measured(label, weight):
        batch = task_batch(np.random.default_rng(1))
        for part in batch.values():
            part.update(label=part["label"].astype(label), weight=part["weight"].astype(weight))
        model = small_model()
        return [
            model.train_on_batch(batch),
            *model.test_on_batch(batch),
            *model.predict_on_batch(batch)["probability"],
        ]

    np.testing.assert_allclose(measured(label, weight), measured("f", "f"), rtol=1e-6)


@pytest.mark.parametrize("frozen", ["meta_block", "global_block"])
def test_a_frozen_block_is_frozen_in_a_saved_model_too(frozen, tmp_path):
    model = small_model()
    model.build({"meta": (None, 3), "other": (None, 2)})
    getattr(model, frozen).trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    expected = [v.trainable for v in model.weights]
    assert [v.trainable for v in loaded.weights] == expected
    assert 0 < sum(expected) < len(expected)


@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_model_that_is_not_built_cannot_be_built_from_any_iterable(method):
    def batches():
        yield (task_batch(np.random.default_rng(1)),)

    with pytest.raises(ValueError, match=r"not built: give it a tf\.data\.Dataset.*generator"):
        getattr(small_model(), method)(batches())
    model = small_model()
    model.build({"meta": (None, 3), "other": (None, 2)})
    getattr(model, method)(batches(), verbose=0)


@pytest.mark.parametrize("cls", [LiMAML, EntireNetworkMAML, Vanilla])
def test_what_is_no_block_is_refused_with_the_class_that_makes_one(cls):
    layer = keras.layers.Dense(2)
    with pytest.raises(ValueError, match=r"received Dense; .* KerasMetaBlock\(layer"):
        cls(layer, MLPGlobalBlock((5,)))
    with pytest.raises(ValueError, match=r"received MLPMetaBlock; .* FunctionalGlobalBlock\(model"):
        cls(MLPMetaBlock((4,), 2), MLPMetaBlock((4,), 2))


def test_the_auc_before_adaptation_counts_rows_as_the_other_auc_does():
    batch = task_batch(np.random.default_rng(1))
    model = small_model()
    batch["query"]["weight"] *= np.random.default_rng(2).integers(1, 9, (8, 3))
    model.adaptation_strength = 0.0
    measured = model.test_on_batch(batch, return_dict=True)
    assert measured["unadapted_auc"] == measured["auc"]


@pytest.mark.parametrize("metrics", [None, ["mae"], []])
def test_a_loaded_model_reports_the_metrics_of_the_saved_one(metrics, tmp_path):
    batch = task_batch(np.random.default_rng(1))
    model = small_model()
    model.compile(metrics=metrics, run_eagerly=True)
    expected = model.test_on_batch(batch, return_dict=True)
    assert ("unadapted_auc" in expected) == (metrics is None)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.test_on_batch(batch, return_dict=True) == pytest.approx(expected)


def test_a_loss_of_ones_own_of_columns_is_measured_as_one_of_rows():
    def by_rows(label, output):
        return tf.square(label - output)[:, 0]

    batch, measured = task_batch(np.random.default_rng(0)), []
    for loss in (by_rows, lambda label, output: tf.square(label - output)):
        model = small_model(inner_steps=1)
        model.compile("sgd", loss, run_eagerly=True)
        measured.append(model.test_on_batch(batch, return_dict=True)["loss"])
    assert measured[0] == pytest.approx(measured[1])


def test_weights_of_several_outputs_are_refused():
    with pytest.raises(ValueError, match=r"loss_weights .* received \[0\.5\]"):
        small_model().compile(loss_weights=[0.5])


def test_encoded_rows_are_refused_by_loops_of_tasks_and_tuples_of_one_batch_are_not():
    batch, model = task_batch(np.random.default_rng(0)), small_model()
    model.fit(tf.data.Dataset.from_tensors((batch,)), verbose=0)
    model.fit(tf.data.Dataset.from_tensors((batch,)), verbose=0)
    rows = {name: value[0] for name, value in batch["support"]["features"].items()}
    pairs = tf.data.Dataset.from_tensors((rows, np.zeros(4)))
    for loop in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(LimamlError, match=r"entries \['meta', 'other'\]; encoded rows have"):
            loop(rows)
    for loop in (model.fit, model.evaluate):
        with pytest.raises(LimamlError, match=r"expected a dataset of task batches"):
            loop(pairs)
    assert model.predict(rows, verbose=0).shape == (4,)


def test_a_meta_block_without_weights_is_told_when_the_model_is_built():
    shapes = {"meta": (None, 3), "other": (None, 2)}
    blocks = KerasMetaBlock(keras.layers.Activation("tanh", name="bare"), 3), MLPGlobalBlock((5,))
    with pytest.raises(LimamlError, match=r"'keras_meta_block.*' has no weights to adapt"):
        LiMAML(*blocks).build(shapes)
    LiMAML(*blocks, inner_steps=0).build(shapes)


@pytest.mark.parametrize("cls", [LiMAML, EntireNetworkMAML])
def test_a_network_of_which_nothing_can_be_adapted_is_refused_unless_it_takes_no_steps(cls):
    batch = task_batch(np.random.default_rng(1))
    model = small_model(cls)
    model.train_on_batch(batch)
    model.meta_block.trainable = model.global_block.trainable = False
    model.compile(run_eagerly=True)
    for call in (model.train_on_batch, model.test_on_batch, model.predict_on_batch):
        with pytest.raises(LimamlError, match=r"nothing can be adapted: .* are frozen"):
            call(batch)
    model.inner_steps = model.fine_tune_steps = 0
    assert model.train_on_batch(batch) > 0
    assert len(model.predict_on_batch(batch)["label"]) > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("query"), "the batch of tasks has no 'query'; it needs"),
        (lambda b: b["support"].pop("weight"), "has no 'support/weight'; .*0 for padding"),
        (lambda b: b["query"].pop("label"), "has no 'query/label'"),
        (
            lambda b: b["query"].update(label=b["query"]["label"][..., None]),
            r"query/label must have the shape \[tasks, rows\], received \(8, 3, 1\)",
        ),
        (
            lambda b: b["query"].update(weight=b["query"]["weight"][:, :1]),
            r"query/weight must have the shape \[tasks, rows\] of query/label, .* \(8, 1\)",
        ),
        (
            lambda b: b["support"]["features"].update(meta=np.zeros((8, 3), "f")),
            r"feature 'meta' of the support set .*\(8, 4\), received \(8, 3\); repeat",
        ),
        (lambda b: b["query"]["features"].pop("other"), r"only one has \['other'\]"),
        (
            lambda b: b["query"].update(label=b["query"]["label"].astype(int).astype(str)),
            "query/label must hold numbers, received string; convert it",
        ),
        (
            lambda b: b.update(query=tf.nest.map_structure(lambda v: v[:7], b["query"])),
            "must have the same tasks in the same order, received 8 and 7 tasks",
        ),
        (
            lambda b: b["query"].update(features=b["query"]["features"]["meta"]),
            "'query/features' of a batch of tasks must be a dictionary .* received ndarray",
        ),
        (
            lambda b: b.update(support=b["support"]["label"]),
            "'support' of a batch of tasks must be a dictionary .* received ndarray",
        ),
    ],
    ids=[
        *("part", "weight", "label", "label shape", "weight shape", "feature shape", "feature"),
        *("strings", "tasks", "features without names", "values without names"),
    ],
)
def test_a_batch_that_lacks_something_is_refused_by_name_whether_the_model_is_built_or_not(
    change, message
):
    batch = task_batch(np.random.default_rng(0))
    change(batch)
    for shapes in (None, {"meta": (None, 3), "other": (None, 2)}):
        model = small_model()
        if shapes:
            model.build(shapes)
        with pytest.raises(LimamlError, match=message):
            model.train_on_batch(batch)


def test_a_batch_of_tasks_without_any_history_is_solved_to_offsets_of_zero():
    model = LiMAML(OffsetMetaBlock((4,), 2), DotProductGlobalBlock((5,)))
    model.compile(keras.optimizers.SGD(0.05), run_eagerly=True)
    batch = task_batch(np.random.default_rng(0), support=0)
    assert np.isfinite(model.train_on_batch(batch))
    (offsets,) = model.adapt_tasks(tf.nest.map_structure(tf.constant, batch["support"]), 2).weights
    np.testing.assert_array_equal(offsets, np.zeros((8, 2)))
    adapted = model.predict_on_batch(batch)["probability"]
    model.fine_tune = False
    np.testing.assert_allclose(adapted, model.predict_on_batch(batch)["probability"], rtol=1e-6)
