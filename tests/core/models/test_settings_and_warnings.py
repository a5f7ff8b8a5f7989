"""Settings that fit each other, steps without effect, and rows that cannot be scored."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from joint_fixtures import joint_model
from small_models import small_model, task_batch, task_batches
from toys import toy_schema, toy_statistics

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock, OffsetMetaBlock
from tfrec_limaml.adaptation.inner_weights import DualKernel, LowRankKernel, SharedWeight
from tfrec_limaml.blocks import DotProductGlobalBlock, FunctionalGlobalBlock
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import OTHER_ROW, SIDE
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.finite_tasks import finite_adaptation
from tfrec_limaml.schema.schema import Feature, Label
from tfrec_limaml.tasks.feature_encoder import FeatureEncoder
from tfrec_limaml.training.optimizer import make_optimizer
from tfrec_limaml.training.options import TrainOptions


def test_gradients_that_overflow_change_no_weight_and_are_counted_beside_the_real_loss(monkeypatch):
    model, dataset = small_model(), task_batches(batches=2)
    model.build({"meta": (None, 3), "other": (None, 2)})
    gradients_of = model._gradients

    def overflow(*arguments):
        loss, gradients, finite = gradients_of(*arguments)
        return loss, [gradients[0] * np.inf, *gradients[1:]], finite

    monkeypatch.setattr(model, "_gradients", overflow)
    before = [v.numpy() for v in model.trainable_variables]
    with pytest.warns(UserWarning, match="2 steps had gradients that are not finite"):
        loss = model.fit(dataset, verbose=0).history["loss"][0]
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)
    assert loss > 0.1
    assert (int(model.dropped_tasks.value), int(model.skipped_steps.value)) == (0, 2)


def _nan_to_zero(x):
    """A ReLU as some CPUs compute it."""
    return tf.where(x > 0, x, 0.0)


@pytest.mark.parametrize(
    ("part", "column", "loss"),
    [
        ("support", "meta", "binary_crossentropy"),
        ("support", "other", "binary_crossentropy"),
        ("query", "other", "binary_crossentropy"),
        ("support", "label", "binary_crossentropy"),
        ("support", "label", "mse"),  # which has no range of labels: the adaptation tells
    ],
)
def test_a_bad_value_that_a_relu_hides_costs_its_task_and_no_other(part, column, loss):
    keras.utils.set_random_seed(1)
    rows, embedding = keras.Input((2,), name="other"), keras.Input((2,), name="meta_embedding")
    joined = keras.layers.Concatenate()([keras.layers.Dense(3, _nan_to_zero)(rows), embedding])
    hidden = keras.layers.Dense(4, _nan_to_zero)(joined)
    block = FunctionalGlobalBlock(keras.Model([rows, embedding], keras.layers.Dense(1)(hidden)))
    model = LiMAML(MLPMetaBlock((4,), 2, activation=_nan_to_zero), block, inner_steps=1)
    model.compile(keras.optimizers.SGD(0.1), loss=loss, run_eagerly=True)
    batch = task_batch(np.random.default_rng(0))
    samples = batch[part]
    samples["weight"][2, 0] = batch["query"]["weight"][2, 0] = 1.0
    (samples if column == "label" else samples["features"])[column][2, 0] = np.nan
    model.build({"meta": (None, 3), "other": (None, 2)})
    before = [v.numpy() for v in model.trainable_variables]
    with pytest.warns(UserWarning, match=r"left out 1 task with .*check the features and labels"):
        model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    after = [v.numpy() for v in model.trainable_variables]
    assert all(np.isfinite(v).all() for v in after)
    assert any(np.any(a != b) for a, b in zip(after, before, strict=True))
    assert (int(model.dropped_tasks.value), int(model.skipped_steps.value)) == (1, 0)


def test_a_task_whose_adapted_weights_overflow_is_told_from_the_others():
    values = np.ones([3, 2, 2], "float32")
    values[1, 0, 0] = np.inf
    bad = tf.constant(values)
    dual = DualKernel(tf.ones([2, 2]), tf.ones([3, 2, 2]))
    low_rank = LowRankKernel(tf.ones([2, 2]), tf.zeros([3, 2]))
    low_rank.product(tf.ones([3, 2, 2]))
    for weight in (bad, dual.descend(bad, 0.1), low_rank.descend(bad, 0.1)):
        adapted = AdaptedTasks([weight, SharedWeight(tf.ones([2]), tf.constant(3))])
        assert finite_adaptation(adapted, weights=True).numpy().tolist() == [True, False, True]
    assert finite_adaptation(AdaptedTasks([bad]), weights=False).numpy()


def _with_regularizer(penalty):
    """A model whose last layer adds this penalty to the loss."""
    keras.utils.set_random_seed(1)
    rows, embedding = keras.Input((2,), name="other"), keras.Input((2,), name="meta_embedding")
    joined = keras.layers.Concatenate()([rows, embedding])
    last = keras.layers.Dense(1, kernel_regularizer=lambda kernel: tf.constant(penalty))
    block = FunctionalGlobalBlock(keras.Model([rows, embedding], last(joined)))
    model = LiMAML(MLPMetaBlock((4,), 2), block, averaging="sample")
    model.compile(keras.optimizers.SGD(0.0), metrics=[], run_eagerly=True)
    return model


def test_a_loss_that_is_not_finite_ends_training_as_keras_users_expect():
    model, stop = _with_regularizer(np.inf), keras.callbacks.TerminateOnNaN()
    with pytest.warns(UserWarning, match="1 step had gradients that are not finite"):
        model.fit(task_batches(), epochs=3, verbose=0, callbacks=[stop])


def test_the_penalties_of_regularizers_are_part_of_the_training_and_of_the_validation_loss():
    def losses(penalty):
        dataset = task_batches(batches=1)
        curves = _with_regularizer(penalty).fit(dataset, validation_data=dataset, verbose=0).history
        return curves["loss"][0], curves["val_loss"][0]

    for plain, penalised in zip(losses(0.0), losses(0.5), strict=True):
        assert penalised - plain == pytest.approx(0.5, rel=1e-4)


def test_first_order_and_second_order_steps_are_one_setting():
    model = small_model(first_order=True)
    assert (model.first_order, model.second_order_steps) == (True, 0)
    model.second_order_steps = 1
    assert not model.first_order
    assert LiMAML.from_config(model.get_config()).second_order_steps == 1
    model.first_order = True
    assert LiMAML.from_config(model.get_config()).first_order
    older = {**model.get_config(), "first_order": True, "second_order_steps": None}
    assert LiMAML.from_config(older).second_order_steps == 0


@pytest.mark.parametrize(
    "option", [{"first_order": True}, {"learn_inner_rates": True}, {"support_reduction": "sum"}]
)
def test_the_closed_form_refuses_options_of_gradient_steps(option):
    (name,) = option
    with pytest.raises(ValueError, match=f"does not read options of gradient steps.*{name}"):
        LiMAML(OffsetMetaBlock((4,), 3), DotProductGlobalBlock((5,)), **option)


def test_a_dtype_policy_of_the_model_alone_is_refused():
    with pytest.raises(ValueError, match=r"'mixed_bfloat16', that of .* 'float32': give the"):
        small_model(dtype="mixed_bfloat16")
    policy = {"dtype": "mixed_bfloat16"}
    model = LiMAML(MLPMetaBlock((4,), 2, **policy), MLPGlobalBlock((5,), **policy), **policy)
    assert model.compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    "loss",
    ["bce", "BinaryCrossentropy", keras.losses.BinaryCrossentropy(), "binary_focal_crossentropy"],
)
def test_a_label_that_is_not_binary_refuses_each_name_of_a_binary_loss(loss):
    schema = toy_schema(Feature(name="x", role="meta")).replace(
        label=Label(name="click", kind="regression")
    )
    encoder = FeatureEncoder(schema, toy_statistics())
    model = LiMAML(MLPMetaBlock((4,), 2), MLPGlobalBlock((5,)), encoder=encoder)
    with pytest.raises(ValueError, match=r"is not binary .*regression loss"):
        model.compile(loss=loss)
    model.compile(loss="mae")


@pytest.mark.parametrize("last", ["activation", "layer"])
def test_a_network_that_ends_in_a_sigmoid_is_refused(last):
    rows = keras.Input((2,), name="other")
    embedding = keras.Input((2,), name="meta_embedding")
    joined = keras.layers.Concatenate()([rows, embedding])
    output = (
        keras.layers.Dense(1, "sigmoid")(joined)
        if last == "activation"
        else keras.layers.Activation("sigmoid")(keras.layers.Dense(1)(joined))
    )
    with pytest.raises(LimamlError, match="ends in a sigmoid; leave the sigmoid out"):
        FunctionalGlobalBlock(keras.Model([rows, embedding], output))


def test_a_model_of_two_definitions_says_what_a_batch_or_its_table_lacks():
    model = joint_model()
    batch = task_batch(np.random.default_rng(0))
    for part in batch.values():
        shape = part["label"].shape
        part["features"] |= {SIDE: np.zeros(shape, "i"), OTHER_ROW: np.ones(shape, "i")}
    dataset = tf.data.Dataset.from_tensors(batch)
    for loop in (model.evaluate, model.predict):
        with pytest.raises(LimamlError, match=r"table of offsets is empty.*fill_table"):
            loop(dataset)


def test_an_unknown_pooling_and_another_object_as_encoder_are_refused_at_once():
    model = small_model()
    with pytest.raises(ValueError, match=r"pooling must be one of .*received 'avg'"):
        model.pooling = "avg"
    assert model.pooling == "latest"
    with pytest.raises(ValueError, match=r"encoder must be a FeatureEncoder.*received Schema"):
        small_model(encoder=toy_schema(Feature(name="x", role="meta")))


def test_the_export_of_keras_is_refused_with_the_export_for_serving():
    with pytest.raises(LimamlError, match=r"as ranker and adapter: call .*export_for_serving"):
        small_model().export("somewhere")


def test_no_weight_of_a_column_escapes_decay_by_its_name():
    optimizer = make_optimizer(TrainOptions(), 10)
    names = ("bias", "inner_rate_0", "scaled_log_precision", "bias_group_embedding", "kernel")
    decayed = []
    for name in names:
        variable = keras.Variable(1.0, name=name)
        optimizer.build([variable])
        decayed += [name] if optimizer._use_weight_decay(variable) else []
    assert decayed == ["bias_group_embedding", "kernel"]


def test_a_feature_with_a_slash_in_its_name_is_embedded():
    block = DotProductGlobalBlock((5,), embeddings={"cat/top": (4, 2)})
    model = LiMAML(OffsetMetaBlock((4,), 3), block)
    model.build({"meta": (None, 3), "other": (None, 2), "cat/top": (None,)})
    assert any("cat_top_embedding" in v.path for v in model.trainable_variables)
