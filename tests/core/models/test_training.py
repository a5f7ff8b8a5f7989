"""Training as a Keras user does it: distribution, repeatability, saving, early errors."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from processors import multiplies_bfloat16
from small_models import small_model, task_batch, task_batches

from tfrec_limaml import EntireNetworkMAML, LiMAML, MLPGlobalBlock, MLPMetaBlock, Vanilla
from tfrec_limaml.errors import LimamlError

pytestmark = pytest.mark.slow

#: By which repeated runs may differ: rounding alone, whatever kernels the processor chooses.
BOUND = 1e-6


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

    model = small_model(Vanilla)
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-6), 3e38))
    start = model.build({"meta": (None, 3), "other": (None, 2)}) or model.get_weights()
    model.fit(task_batches().map(large), epochs=4, verbose=0)
    assert float(model.optimizer.dynamic_scale) < 1e38
    moved = [np.abs(a - b).max() for a, b in zip(model.get_weights(), start, strict=True)]
    assert 0 < max(moved) < np.inf


@pytest.mark.parametrize(
    ("cls", "traced"), [(LiMAML, False), (EntireNetworkMAML, True), (Vanilla, False)]
)
def test_fit_lowers_the_loss_and_a_seed_repeats_it(cls, traced):
    dataset = task_batches(batches=2)
    first, second = (
        small_model(cls, traced).fit(dataset, epochs=2, verbose=0, validation_data=dataset).history
        for _ in range(2)
    )
    assert first["loss"][-1] < first["loss"][0]
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, rtol=BOUND, err_msg=name)
    assert {"loss", "val_loss", "val_auc", "val_log_loss"} <= set(first)


def test_several_steps_per_execution_change_nothing_but_the_number_of_visits_to_python():
    dataset, actual = task_batches(batches=5), []
    for steps in (1, 3):
        model = small_model(Vanilla)
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
    dataset = task_batches(batches=2)
    model = small_model(learn_inner_rates=True, support_reduction="shrunk")
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
    dataset = task_batches(batches=2)
    model = small_model(learn_inner_rates=True)
    model.fit(dataset, epochs=1, verbose=0)
    for rate in model.rates:  # less than a step of the optimizer
        rate.assign(tf.fill(rate.shape, 0.01))
    model.fit(dataset, epochs=1, verbose=0)
    rates = np.concatenate([rate.numpy().ravel() for rate in model.rates])
    assert (rates >= 0).all()
    assert (rates == 0).any()
    assert (rates > 0.01).any()


def test_fine_tuning_at_evaluation_can_be_switched_on_a_trained_model():
    dataset = task_batches()
    model = small_model()
    model.fit(dataset, epochs=1, verbose=0)
    model.compile()
    tuned = model.predict(dataset, verbose=0)["probability"]
    model.fine_tune = False
    plain = model.predict(dataset, verbose=0)["probability"]
    model.fine_tune = True
    assert np.abs(tuned - plain).max() > 1e-3
    again = model.predict(dataset, verbose=0)["probability"]
    np.testing.assert_allclose(again, tuned, rtol=0, atol=BOUND)


def test_predictions_cover_every_real_query_row_in_order():
    dataset = task_batches(batches=1)
    (batch,) = list(dataset)
    model = small_model()
    rows = model.predict(dataset, verbose=0)
    np.testing.assert_array_equal(
        rows["label"], batch["query"]["label"][batch["query"]["weight"] > 0]
    )
    expected = model.predictions(model.task_outputs(batch["support"], batch["query"]))[
        batch["query"]["weight"] > 0
    ]
    np.testing.assert_allclose(rows["probability"], expected, rtol=1e-5)


def test_evaluation_metrics_ignore_padding_and_match_the_rows():
    dataset = task_batches()
    model = small_model()
    result = model.evaluate(dataset, return_dict=True, verbose=0)
    rows = model.predict(dataset, verbose=0)
    p, y = rows["probability"], rows["label"]
    np.testing.assert_allclose(
        result["log_loss"], -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)), rtol=1e-4
    )
    np.testing.assert_allclose(result["loss"], result["log_loss"], rtol=1e-4)


@pytest.mark.parametrize(
    ("loss", "binary"),
    [
        ("binary_crossentropy", True),
        (keras.losses.BinaryFocalCrossentropy(gamma=1.0), True),
        ("mse", False),
        (keras.losses.LogCosh(), False),
    ],
)
def test_a_model_that_is_loaded_without_being_compiled_predicts_and_adapts_as_the_saved_one(
    tmp_path, loss, binary
):
    batch = task_batches(batches=1)
    model = small_model()
    model.compile("sgd", loss, run_eagerly=True)
    model.fit(batch, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    loaded.run_eagerly = True
    name = "probability" if binary else "prediction"
    np.testing.assert_allclose(
        loaded.predict(batch, verbose=0)[name], model.predict(batch, verbose=0)[name], rtol=1e-6
    )
    assert keras.models.clone_model(loaded).binary == binary


def test_a_model_with_a_loss_of_ones_own_asks_for_it_when_it_is_loaded_without(tmp_path):
    def twice(label, output):
        return 2.0 * tf.reduce_sum(tf.square(label - output), -1)

    batch = task_batches(batches=1)
    model = small_model()
    model.compile("sgd", twice, run_eagerly=True)
    model.fit(batch, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    loaded.run_eagerly = True
    rows = {"meta": np.ones((2, 3), "f"), "other": np.ones((2, 2), "f")}
    np.testing.assert_allclose(loaded(rows), model(rows), rtol=1e-6)
    with pytest.raises(ValueError, match="trained with the loss 'twice', which"):
        loaded.predict(batch, verbose=0)
    loaded.compile("sgd", twice, run_eagerly=True)
    np.testing.assert_allclose(
        loaded.predict(batch, verbose=0)["prediction"],
        model.predict(batch, verbose=0)["prediction"],
        rtol=1e-6,
    )


def test_a_regression_loss_predicts_values_and_any_keras_loss_is_taken_by_name():
    dataset = task_batches()
    model = small_model(inner_steps=1)
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
    losses = model.fit(task_batches(batches=4), epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_a_dataset_of_rows_is_refused_with_what_is_expected():
    with pytest.raises(ValueError, match="task batches with 'support' and 'query'"):
        small_model().fit(tf.data.Dataset.from_tensors({"x": [1.0]}))


@pytest.mark.parametrize(
    ("cls", "traced"), [(LiMAML, False), (EntireNetworkMAML, False), (Vanilla, True)]
)
def test_single_batches_are_trained_measured_and_predicted_as_datasets_are(cls, traced):
    batch = task_batch(np.random.default_rng(1))
    one = tf.data.Dataset.from_tensors(batch)
    fresh = small_model(cls, traced)
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
    fitted, stepped = small_model(cls, traced), small_model(cls, traced)
    loss = fitted.fit(one, verbose=0).history["loss"][0]
    assert stepped.train_on_batch(batch) == pytest.approx(loss)


@pytest.mark.parametrize("cls", [LiMAML, Vanilla])
def test_class_weight_and_further_weights_are_refused_with_what_to_do(cls):
    model, batch = small_model(cls), task_batch(np.random.default_rng(1))
    weights = {0: 1.0, 1: 2.0}
    for call in (
        lambda: model.fit(task_batches(), class_weight=weights, verbose=0),
        lambda: model.train_on_batch(batch, class_weight=weights),
    ):
        with pytest.raises(LimamlError, match=r"class_weight cannot be used .* schema's `weight`"):
            call()
    for method in (model.test_on_batch, model.fit, model.evaluate):
        for name in ("y", "sample_weight"):
            with pytest.raises(LimamlError, match=f"{name} cannot be used with batches of tasks"):
                method(batch, **{name: np.ones(8)})


@pytest.mark.parametrize("cls", [LiMAML, EntireNetworkMAML, Vanilla])
def test_tasks_without_any_weight_count_for_nothing(cls):
    def of_weight(batch, tasks):
        parts = {name: dict(batch[name]) for name in ("support", "query")}
        for part in parts.values():
            part["weight"] = part["weight"].copy()
            part["weight"][tasks] = 0
        return parts

    batch = task_batch(np.random.default_rng(1))
    model = small_model(cls)
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
    losses = [small_model(cls).train_on_batch(part) for part in (some, few)]
    assert losses[0] == pytest.approx(losses[1])


def test_second_order_steps_cannot_be_negative():
    model = small_model(LiMAML)
    model.second_order_steps = None
    with pytest.raises(ValueError, match="second_order_steps must be at least 0, received -1"):
        model.second_order_steps = -1
