"""The exported adapter against the model that it was made from."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.export.adapter import adapter_module
from tfrec_limaml.tasks.record_format import encode_task


def _encode(schema, tasks):
    return [encode_task(schema, *task) for task in tasks]


def test_the_adapter_embeds_like_the_model_whoever_shares_the_batch(
    model, adapter, support_of, tasks
):
    together = adapter(*_encode(model.encoder.schema, tasks))
    for i, task in enumerate(tasks):
        embedding, before, after, *_ = model.task_embeddings(support_of(model, task[1]))
        np.testing.assert_allclose(together["meta_embedding"][i], embedding[0], atol=2e-6)
        np.testing.assert_allclose(together["loss_before"][i], before, rtol=1e-5)
        np.testing.assert_allclose(together["loss_after"][i], after, rtol=1e-5)
        alone = adapter(*_encode(model.encoder.schema, [task]))
        for name in ("meta_embedding", "loss_before", "loss_after"):
            np.testing.assert_allclose(together[name][i], alone[name][0], atol=1e-6, err_msg=name)
    assert np.all(together["loss_after"] < together["loss_before"])


def test_the_adapter_tells_keys_counts_and_last_times(model, adapter, tasks):
    actual = adapter(*_encode(model.encoder.schema, tasks))
    assert [k.decode() for k in actual["task_key"][:, 0]] == ["a", "bä|1", "c"]
    assert actual["sample_count"].tolist() == [[7], [1], [4]]
    assert actual["last_timestamp"].tolist() == [[6000], [10_000], [23_000]]


def test_records_that_are_cut_are_embedded_by_their_support_part(model, adapter, tasks):
    key, rows, _ = tasks[0]
    schema = model.encoder.schema
    shortened = adapter(encode_task(schema, key, rows, 4))
    part = adapter(encode_task(schema, key, rows[:4]))
    assert shortened.pop("task_key") == part.pop("task_key")
    for name, value in part.items():  # a batch of another width: equal up to rounding
        bound = 1e-6 * np.linalg.norm(value)
        np.testing.assert_allclose(shortened[name], value, rtol=0, atol=bound, err_msg=name)


def test_a_record_without_support_is_not_adapted_and_has_seen_nothing(
    model, adapter, as_columns, tasks
):
    key, rows, _ = tasks[2]
    actual = adapter(encode_task(model.encoder.schema, key, rows, 0))
    assert (
        actual["sample_count"][0, 0],
        actual["last_timestamp"][0, 0],
        actual["loss_before"][0, 0],
    ) == (0, 0, 0.0)
    features = model.encoder({n: tf.constant(v) for n, v in as_columns(rows[:1]).items()})
    np.testing.assert_allclose(actual["meta_embedding"], model.meta_block(features), atol=1e-6)


def test_a_nan_in_one_record_stays_in_it(model, adapter, tasks):
    schema = model.encoder.schema
    clean = adapter(*_encode(schema, tasks))
    spoilt = [tasks[0], (tasks[1][0], [{**tasks[1][1][0], "age": np.nan}], -1), tasks[2]]
    actual = adapter(*_encode(schema, spoilt))
    assert np.isnan(actual["meta_embedding"][1]).all()
    for name in ("meta_embedding", "loss_before", "loss_after"):
        np.testing.assert_allclose(
            actual[name][[0, 2]], clean[name][[0, 2]], atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize("pooling", ["mean", "max", "cosine"])
def test_the_adapter_pools_as_the_model_says(make_model, support_of, tasks, pooling):
    model = make_model(pooling=pooling)
    signatures = adapter_module(model).signatures
    actual = signatures["serving_default"](
        task_records=tf.constant(_encode(model.encoder.schema, tasks))
    )["meta_embedding"]
    for i, (_, rows, _) in enumerate(tasks):
        np.testing.assert_allclose(
            actual[i], model.task_embeddings(support_of(model, rows))[0][0], atol=2e-6
        )


def test_records_of_another_schema_and_broken_ones_are_refused(model, adapter, tasks, every_kind):
    (good,) = _encode(model.encoder.schema, tasks[:1])
    with pytest.raises(tf.errors.InvalidArgumentError, match="Invalid protocol message"):
        adapter(good, b"no record")
    fewer = every_kind[0].replace(
        features=tuple(f for f in every_kind[0].features if f.name != "land.code")
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"feature list .*land\.code.* does not hold one value per sample",
    ):
        adapter(*_encode(fewer, tasks[:1]))


@pytest.mark.parametrize("learned", ["rates", "kappa"])
def test_what_is_learned_of_the_inner_steps_reaches_the_adapter(
    make_model, tasks, learned, tmp_path
):
    keras.backend.clear_session()
    if learned == "rates":
        model = make_model(learn_inner_rates=True)
        for rate in model.rates:
            rate.assign(tf.zeros_like(rate))
    else:
        model = make_model(support_reduction="shrunk")
        model.scaled_log_kappa.assign(5.0)  # kappa e^50: no step is left
    exported = adapter_module(model)
    tf.saved_model.save(exported.module, str(tmp_path), signatures=exported.signatures)
    actual = tf.saved_model.load(str(tmp_path)).signatures["serving_default"](
        task_records=tf.constant(_encode(model.encoder.schema, tasks))
    )
    np.testing.assert_allclose(actual["loss_before"], actual["loss_after"], rtol=1e-6)
