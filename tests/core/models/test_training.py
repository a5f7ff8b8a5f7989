"""Training as a Keras user does it: distribution, repeatability, saving, early errors."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from processors import multiplies_bfloat16

from tfrec_limaml import EntireNetworkMAML, LiMAML, MLPGlobalBlock, MLPMetaBlock, Vanilla
from tfrec_limaml.errors import LimamlError

pytestmark = pytest.mark.slow

#: By which repeated runs may differ: rounding alone, whatever kernels the processor chooses.
BOUND = 1e-6


def _batch(rng, tasks=8, support=4, query=3):
    def samples(size):
        return {
            "features": {
                "meta": rng.normal(size=(tasks, size, 3)).astype("f"),
                "other": rng.normal(size=(tasks, size, 2)).astype("f"),
            },
            "label": (rng.random((tasks, size)) < 0.5).astype("f"),
            "weight": (rng.random((tasks, size)) < 0.8).astype("f"),
        }

    return {"support": samples(support), "query": samples(query)}


def _dataset(seed=0, batches=3, **sizes):
    rng = np.random.default_rng(seed)
    stacked = tf.nest.map_structure(
        lambda *x: np.stack(x), *[_batch(rng, **sizes) for _ in range(batches)]
    )
    return tf.data.Dataset.from_tensor_slices(stacked)


def _model(cls=LiMAML, traced=False, **kwargs):
    """A small model. Building graphs takes longer than these few steps without: only tests of what
    is `traced` build them.
    """
    keras.utils.set_random_seed(5)
    model = cls(MLPMetaBlock((4,), 2), MLPGlobalBlock((5,)), inner_learning_rate=0.5, **kwargs)
    model.compile(keras.optimizers.Adam(0.05), run_eagerly=not traced)
    return model


def test_two_replicas_make_the_single_device_update(forks):
    """In a separate process: logical devices must be configured before TensorFlow starts."""
    done = forks().start(Path(__file__).with_name("two_replicas.py")).wait(300)
    assert done.returncode == 0, done.stderr[-2000:]
    difference, moved = (float(x) for x in done.stdout.split()[-2:])
    assert difference < 1e-5
    assert moved > 1e-2


def test_a_loss_scale_at_which_gradients_overflow_is_lowered_until_they_do_not():
    def large(batch):
        support, query = batch["support"], batch["query"]
        return {
            "support": support,
            "query": {**query, "features": {k: 1e3 * v for k, v in query["features"].items()}},
        }

    model = _model(Vanilla)
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-6), 3e38))
    start = model.build({"meta": (None, 3), "other": (None, 2)}) or model.get_weights()
    model.fit(_dataset().map(large), epochs=4, verbose=0)
    assert float(model.optimizer.dynamic_scale) < 1e38
    moved = [np.abs(a - b).max() for a, b in zip(model.get_weights(), start, strict=True)]
    assert 0 < max(moved) < np.inf


@pytest.mark.parametrize(
    ("cls", "traced"), [(LiMAML, False), (EntireNetworkMAML, True), (Vanilla, False)]
)
def test_fit_lowers_the_loss_and_a_seed_repeats_it(cls, traced):
    dataset = _dataset(batches=2)
    first, second = (
        _model(cls, traced).fit(dataset, epochs=2, verbose=0, validation_data=dataset).history
        for _ in range(2)
    )
    assert first["loss"][-1] < first["loss"][0]
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, rtol=BOUND, err_msg=name)
    assert {"loss", "val_loss", "val_auc", "val_log_loss"} <= set(first)


def test_several_steps_per_execution_change_nothing_but_the_number_of_visits_to_python():
    dataset, actual = _dataset(batches=5), []
    for steps in (1, 3):
        model = _model(Vanilla)
        model.compile(keras.optimizers.Adam(0.05), steps_per_execution=steps)
        history = model.fit(dataset, epochs=2, verbose=0, validation_data=dataset).history
        actual.append((history, model.predict(dataset, verbose=0)))
    (one, rows), (eight, same_rows) = actual
    for name, values in one.items():
        np.testing.assert_allclose(eight[name], values, rtol=1e-6, err_msg=name)
    assert len(rows["label"]) == sum(
        int((batch["query"]["weight"] > 0).sum()) for batch in dataset.as_numpy_iterator()
    )
    np.testing.assert_allclose(same_rows["probability"], rows["probability"], rtol=1e-5)


def test_a_saved_and_restored_model_and_optimizer_continue_identically(tmp_path):
    dataset = _dataset(batches=2)
    model = _model(learn_inner_rates=True, support_reduction="shrunk")
    model.fit(dataset, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    for one in (model, restored):
        one.fit(dataset, epochs=1, verbose=0)
    for a, b in zip(model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=BOUND * np.linalg.norm(a))
    np.testing.assert_allclose(
        model.predict(dataset, verbose=0)["probability"],
        restored.predict(dataset, verbose=0)["probability"],
        rtol=0,
        atol=BOUND,
    )


def test_learned_inner_rates_move_and_stay_non_negative():
    dataset = _dataset(batches=2)
    model = _model(learn_inner_rates=True)
    model.fit(dataset, epochs=1, verbose=0)
    for rate in model.rates:  # less than a step of the optimizer
        rate.assign(tf.fill(rate.shape, 0.01))
    model.fit(dataset, epochs=1, verbose=0)
    rates = np.concatenate([rate.numpy().ravel() for rate in model.rates])
    assert (rates >= 0).all()
    assert (rates == 0).any()
    assert (rates > 0.01).any()


def test_fine_tuning_at_evaluation_can_be_switched_on_a_trained_model():
    dataset = _dataset()
    model = _model()
    model.fit(dataset, epochs=1, verbose=0)
    model.compile()
    tuned = model.predict(dataset, verbose=0)["probability"]
    model.fine_tune = False
    plain = model.predict(dataset, verbose=0)["probability"]
    model.fine_tune = True
    assert np.abs(tuned - plain).max() > 1e-3
    again = model.predict(dataset, verbose=0)["probability"]
    np.testing.assert_allclose(again, tuned, rtol=0, atol=BOUND)


@pytest.mark.parametrize(
    "settings",
    [
        {"fine_tune_steps": 4},
        {"inner_learning_rate": 3.0, "inner_steps": 2, "unadapted_loss_weight": 1.0},
    ],
)
def test_settings_that_are_changed_after_training_hold_for_traced_functions_too(settings):
    dataset = _dataset()

    def losses(traced):
        model = _model(traced=traced, averaging="sample")

        def measured():
            loss = model.fit(dataset, verbose=0).history["loss"][0]
            adapted = model.predict(dataset, verbose=0)["probability"]
            return [loss, model.evaluate(dataset, verbose=0)[0], *adapted]

        before = measured()
        for name, value in settings.items():
            setattr(model, name, value)
        return before, measured()

    before, after = losses(traced=True)
    expected_before, expected_after = losses(traced=False)
    np.testing.assert_allclose(before, expected_before, rtol=1e-4)
    np.testing.assert_allclose(after, expected_after, rtol=1e-4)


def test_a_callback_may_change_a_setting_of_the_training_that_it_watches():
    class Slower(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.inner_learning_rate /= 4
            self.model.fine_tune_steps += 1

    dataset = _dataset()
    curves = [
        _model(traced=traced)
        .fit(dataset, validation_data=dataset, epochs=2, verbose=0, callbacks=[Slower()])
        .history
        for traced in (True, False)
    ]
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(curves[0][name], curves[1][name], rtol=1e-4, err_msg=name)


def test_a_setting_that_is_changed_to_what_it_cannot_be_is_refused_and_kept():
    model = _model()
    for name, value in {
        "fine_tune_steps": -1,
        "averaging": "rows",
        "inner_learning_rate": -1,
    }.items():
        before = getattr(model, name)
        with pytest.raises(ValueError, match=f"{name} must be .*{value}"):
            setattr(model, name, value)
        assert getattr(model, name) == before


def test_predictions_cover_every_real_query_row_in_order():
    dataset = _dataset(batches=1)
    (batch,) = list(dataset)
    model = _model()
    rows = model.predict(dataset, verbose=0)
    np.testing.assert_array_equal(
        rows["label"], batch["query"]["label"][batch["query"]["weight"] > 0]
    )
    expected = model.predictions(model.task_outputs(batch["support"], batch["query"]))[
        batch["query"]["weight"] > 0
    ]
    np.testing.assert_allclose(rows["probability"], expected, rtol=1e-5)


def test_evaluation_metrics_ignore_padding_and_match_the_rows():
    dataset = _dataset()
    model = _model()
    result = model.evaluate(dataset, return_dict=True, verbose=0)
    rows = model.predict(dataset, verbose=0)
    p, y = rows["probability"], rows["label"]
    np.testing.assert_allclose(
        result["log_loss"], -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rtol=1e-4
    )
    np.testing.assert_allclose(result["loss"], result["log_loss"], rtol=1e-4)


def test_a_regression_loss_predicts_values_and_any_keras_loss_is_taken_by_name():
    dataset = _dataset()
    model = _model(inner_steps=1)
    model.compile("adam", loss="huber", metrics=["mae"])
    assert model.evaluate(dataset, return_dict=True, verbose=0)["mae"] > 0
    assert "prediction" in model.predict(dataset, verbose=0)


@multiplies_bfloat16
def test_mixed_precision_and_gradient_accumulation_train():
    keras.utils.set_random_seed(0)
    policy = "mixed_bfloat16"
    model = LiMAML(
        MLPMetaBlock((4,), 2, dtype=policy), MLPGlobalBlock((5,), dtype=policy), dtype=policy
    )
    model.compile(keras.optimizers.Adam(0.05, gradient_accumulation_steps=2))
    losses = model.fit(_dataset(batches=4), epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("label", "weight"), [("int64", "int32"), ("bool", "bool"), ("f2", "f4")])
def test_labels_and_weights_of_any_type_mean_what_they_mean_as_floats(label, weight):
    def measured(label, weight):
        batch = _batch(np.random.default_rng(1))
        for part in batch.values():
            part.update(label=part["label"].astype(label), weight=part["weight"].astype(weight))
        model = _model()
        return [
            model.train_on_batch(batch),
            *model.test_on_batch(batch),
            *model.predict_on_batch(batch)["probability"],
        ]

    np.testing.assert_allclose(measured(label, weight), measured("f", "f"), rtol=1e-6)


@pytest.mark.parametrize("frozen", ["meta_block", "global_block"])
def test_a_frozen_block_is_frozen_in_a_saved_model_too(frozen, tmp_path):
    model = _model()
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
        yield (_batch(np.random.default_rng(1)),)

    with pytest.raises(ValueError, match=r"not built: give it a tf\.data\.Dataset.*generator"):
        getattr(_model(), method)(batches())
    model = _model()
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
    batch = _batch(np.random.default_rng(1))
    model = _model()
    batch["query"]["weight"] *= np.random.default_rng(2).integers(1, 9, (8, 3))
    model.adaptation_strength = 0.0
    measured = model.test_on_batch(batch, return_dict=True)
    assert measured["unadapted_auc"] == measured["auc"]


@pytest.mark.parametrize("metrics", [None, ["mae"], []])
def test_a_loaded_model_reports_the_metrics_of_the_saved_one(metrics, tmp_path):
    batch = _batch(np.random.default_rng(1))
    model = _model()
    model.compile(metrics=metrics, run_eagerly=True)
    expected = model.test_on_batch(batch, return_dict=True)
    assert ("unadapted_auc" in expected) == (metrics is None)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.test_on_batch(batch, return_dict=True) == pytest.approx(expected)


def test_weights_of_several_outputs_are_refused():
    with pytest.raises(ValueError, match=r"loss_weights .* received \[0\.5\]"):
        _model().compile(loss_weights=[0.5])


@pytest.mark.parametrize("cls", [LiMAML, EntireNetworkMAML])
def test_a_network_of_which_nothing_can_be_adapted_is_refused_unless_it_takes_no_steps(cls):
    batch = _batch(np.random.default_rng(1))
    model = _model(cls)
    model.train_on_batch(batch)
    model.meta_block.trainable = model.global_block.trainable = False
    model.compile(run_eagerly=True)
    for call in (model.train_on_batch, model.test_on_batch, model.predict_on_batch):
        with pytest.raises(LimamlError, match=r"nothing can be adapted: .* are frozen"):
            call(batch)
    model.inner_steps = model.fine_tune_steps = 0
    assert model.train_on_batch(batch) > 0
    assert len(model.predict_on_batch(batch)["label"]) > 0


def test_a_dataset_of_rows_is_refused_with_what_is_expected():
    with pytest.raises(ValueError, match="task batches with 'support' and 'query'"):
        _model().fit(tf.data.Dataset.from_tensors({"x": [1.0]}))


@pytest.mark.parametrize(
    ("cls", "traced"), [(LiMAML, False), (EntireNetworkMAML, False), (Vanilla, True)]
)
def test_single_batches_are_trained_measured_and_predicted_as_datasets_are(cls, traced):
    batch = _batch(np.random.default_rng(1))
    one = tf.data.Dataset.from_tensors(batch)
    fresh = _model(cls, traced)
    on_batch = fresh.predict_on_batch(batch)
    rows = fresh.predict(one, verbose=0)
    for name, values in rows.items():
        np.testing.assert_allclose(on_batch[name], values, rtol=1e-6, err_msg=name)
    # Whichever came before: a model traced for a dataset predicts batches, and rows.
    again = fresh.predict_on_batch(batch)
    np.testing.assert_allclose(again["probability"], rows["probability"], rtol=1e-6)
    encoded = {name: value[0] for name, value in batch["query"]["features"].items()}
    assert fresh.predict_on_batch(encoded).shape == (3,)
    measured = fresh.evaluate(one, verbose=0, return_dict=True)
    fresh.reset_metrics()
    assert fresh.test_on_batch(batch, return_dict=True) == pytest.approx(measured)
    fitted, stepped = _model(cls, traced), _model(cls, traced)
    loss = fitted.fit(one, verbose=0).history["loss"][0]
    assert stepped.train_on_batch(batch) == pytest.approx(loss)


@pytest.mark.parametrize("cls", [LiMAML, Vanilla])
def test_class_weight_and_further_weights_are_refused_with_what_to_do(cls):
    model, batch = _model(cls), _batch(np.random.default_rng(1))
    weights = {0: 1.0, 1: 2.0}
    for call in (
        lambda: model.fit(_dataset(), class_weight=weights, verbose=0),
        lambda: model.train_on_batch(batch, class_weight=weights),
    ):
        with pytest.raises(LimamlError, match=r"class_weight cannot be used .* schema's `weight`"):
            call()
    with pytest.raises(LimamlError, match="sample_weight cannot be used with batches of tasks"):
        model.test_on_batch(batch, sample_weight=np.ones(8))


@pytest.mark.parametrize("cls", [LiMAML, EntireNetworkMAML, Vanilla])
def test_tasks_without_any_weight_count_for_nothing(cls):
    def of_weight(batch, tasks):
        parts = {name: dict(batch[name]) for name in ("support", "query")}
        for part in parts.values():
            part["weight"] = part["weight"].copy()
            part["weight"][tasks] = 0
        return parts

    batch = _batch(np.random.default_rng(1))
    model = _model(cls)
    model.predict_on_batch(batch)
    before = [v.numpy() for v in model.trainable_variables]
    nothing = of_weight(batch, slice(None))
    assert model.train_on_batch(nothing) == 0
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert set(model.test_on_batch(nothing)) == {0.0}
    assert len(model.predict_on_batch(nothing)["label"]) == 0
    some = of_weight(batch, slice(5, None))
    few = tf.nest.map_structure(lambda value: value[:5], batch)
    measured = []
    for part in (some, few):
        model.reset_metrics()
        measured.append(model.test_on_batch(part))
    assert measured[0] == pytest.approx(measured[1])
    assert _model(cls).train_on_batch(some) == pytest.approx(_model(cls).train_on_batch(few))
