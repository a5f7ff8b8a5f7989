"""Nested meta blocks: one per task, others per part of a task."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import flatten_tasks

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock
from tfrec_limaml.blocks.nested import NestedMetaBlocks, Subtasks
from tfrec_limaml.evaluation.adaptation import served_outputs

RATE = 0.5


@pytest.fixture
def model():
    keras.utils.set_random_seed(3)
    block = NestedMetaBlocks(
        {
            "user": MLPMetaBlock((), 2, dtype="float64"),
            "tab": MLPMetaBlock((4,), 2, "tanh", dtype="float64"),
        },
        dtype="float64",
    )
    built = LiMAML(
        block,
        MLPGlobalBlock((5,), "tanh", dtype="float64"),
        inner_steps=2,
        inner_learning_rate=RATE,
        dtype="float64",
    )
    built.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    built.build({"meta": (None, 3), "other": (None, 2), "subtask:tab": (None,)})
    return built


def _samples(tabs, seed):
    """One task per list of tabs, padded to the longest; padding has the first row's tab and values
    that no result may see.
    """
    rng, width = np.random.default_rng(seed), max(map(len, tabs))
    real = np.arange(width) < np.array([len(t) for t in tabs])[:, None]
    ids = np.array([[*t, *[t[0]] * (width - len(t))] if t else [0] * width for t in tabs])
    return {
        "features": {
            "meta": tf.constant(rng.normal(size=(len(tabs), width, 3))),
            "other": tf.constant(rng.normal(size=(len(tabs), width, 2))),
            "subtask:tab": tf.constant(ids, tf.int64),
        },
        "label": tf.constant((rng.random((len(tabs), width)) < 0.5).astype(float)),
        "weight": tf.constant(real.astype(float)),
    }


SUPPORT = [[7, 7, 8, 7], [8], [7, 9], []]
QUERY = [[8, 7, 9], [8, 7], [9, 7], [7]]


def _reference(model, support, query, steps):
    """Query logits of each task, by plain gradient descent on a dictionary of weights: one for the
    task, one for each tab.
    """
    user, tab = model.meta_block.blocks

    def forward(samples, task, of_user, of_tabs):
        features = {name: v[task] for name, v in samples["features"].items()}
        hidden = features["meta"] @ of_user[0] + of_user[1]
        rows = []
        for i, which in enumerate(features["subtask:tab"].numpy()):
            w = of_tabs.get(which, start_tab)
            rows.append(tf.tanh(features["meta"][i : i + 1] @ w[0] + w[1]) @ w[2] + w[3])
        return model.global_block(features, tf.concat([hidden, tf.concat(rows, 0)], -1))

    start_user = [v.value for v in user.adaptable_variables]
    start_tab = [v.value for v in tab.adaptable_variables]
    results = []
    for task in range(len(SUPPORT)):
        count = len(SUPPORT[task])
        of_user, of_tabs = (
            list(start_user),
            {which: list(start_tab) for which in set(SUPPORT[task])},
        )
        for _ in range(steps if count else 0):
            with tf.GradientTape() as tape:
                flat = [*of_user, *(w for which in of_tabs for w in of_tabs[which])]
                flat = [tf.identity(w) for w in flat]
                tape.watch(flat)
                of_user = flat[: len(of_user)]
                of_tabs = {
                    which: flat[len(of_user) + 4 * i : len(of_user) + 4 * i + 4]
                    for i, which in enumerate(of_tabs)
                }
                logits = forward(support, task, of_user, of_tabs)[:count]
                loss = tf.reduce_mean(
                    tf.nn.sigmoid_cross_entropy_with_logits(support["label"][task, :count], logits)
                )
            moved = [w - RATE * g for w, g in zip(flat, tape.gradient(loss, flat), strict=True)]
            of_user = moved[: len(of_user)]
            of_tabs = {
                which: moved[len(of_user) + 4 * i : len(of_user) + 4 * i + 4]
                for i, which in enumerate(of_tabs)
            }
        results.append(forward(query, task, of_user, of_tabs).numpy()[: len(QUERY[task])])
    return results


def test_each_task_and_each_of_its_parts_descends_the_task_s_one_loss(model):
    support, query = _samples(SUPPORT, 1), _samples(QUERY, 2)
    actual = model.adapted_outputs(model.adapt_tasks(support, 3), query["features"]).numpy()
    for task, expected in enumerate(_reference(model, support, query, 3)):
        np.testing.assert_allclose(
            actual[task, : len(expected)], expected, rtol=1e-10, err_msg=f"task {task}"
        )


def test_a_part_without_support_stays_as_it_was(model):
    support, query = _samples(SUPPORT, 1), _samples(QUERY, 2)
    weights, _, memory, _ = model.adapt_tasks(support, 2)
    encoded = model.encode_meta(query["features"], model.real_rows(query["features"]))
    read = model.meta_block.read_support(encoded, memory, causal=False)
    embeddings = model.meta_block.call_adapted(weights, read)
    plain = tf.reshape(model.meta_block(flatten_tasks(query["features"])), [4, 3, 4])
    seen = np.array(
        [
            [tab in of_user for tab in (tabs + tabs[:1] * 2)[:3]]
            for of_user, tabs in zip(SUPPORT, QUERY, strict=True)
        ]
    )
    unchanged = np.isclose(embeddings[..., 2:], plain[..., 2:], rtol=1e-12).all(-1)
    np.testing.assert_array_equal(unchanged, ~seen)
    np.testing.assert_array_equal(
        np.isclose(embeddings[..., :2], plain[..., :2], rtol=1e-12).all((1, 2)),
        [False, False, False, True],
    )


def test_parts_are_numbered_by_task_and_first_row_and_padding_belongs_to_none():
    ids = tf.constant([[5, 3, 5, 5], [3, 3, 5, 3], [1, 1, 1, 1]], tf.int64)
    weight = tf.constant([[1.0, 1, 1, 0], [0.5, 1, 1, 1], [0, 0, 0, 0]])
    actual = Subtasks.from_ids(ids, weight)
    np.testing.assert_array_equal(actual.number, [[0, 1, 0, -1], [2, 2, 3, 2], [-1, -1, -1, -1]])
    assert int(actual.count) == 4
    np.testing.assert_array_equal(actual.owner, [0, 0, 1, 1])
    np.testing.assert_array_equal(actual.first_row[:4], [0, 1, 0, 2])
    np.testing.assert_array_equal(
        actual.of_rows(tf.constant([[3, 4, 5], [5, 3, 9], [1, 3, 5]], tf.int64)),
        [[1, -1, 0], [3, 2, -1], [-1] * 3],
    )
    np.testing.assert_array_equal(
        np.argwhere(actual.members()), [[0, 0], [0, 2], [1, 1], [2, 0], [2, 1], [2, 3], [3, 2]]
    )


def test_stored_embeddings_are_those_of_each_task_s_and_each_part_s_last_row(model):
    support = _samples(SUPPORT, 1)
    stored = model.task_embeddings(support)
    (nested,) = stored.nested
    weights, _, memory, _ = model.adapt_tasks(support, model.fine_tune_steps)
    encoded = model.encode_samples(support, False).encoded
    read = model.meta_block.read_support(encoded, memory, causal=False)
    rows = model.meta_block.call_adapted(weights, read)
    np.testing.assert_allclose(
        stored.embedding[:3], [rows[0, 3, :2], rows[1, 0, :2], rows[2, 1, :2]], rtol=1e-12
    )
    last = [rows[0, 3, 2:], rows[0, 2, 2:], rows[1, 0, 2:], rows[2, 0, 2:], rows[2, 1, 2:]]
    np.testing.assert_allclose(nested.embedding[: int(nested.subtasks.count)], last, rtol=1e-12)


def test_what_is_served_joins_the_task_s_and_the_part_s_stored_embedding(model):
    support, query = _samples(SUPPORT, 1), _samples(QUERY, 2)
    stored = model.task_embeddings(support)
    parts = stored.nested[0].embedding
    of_user = tf.reshape(model.meta_block(flatten_tasks(query["features"])), [4, 3, 4])
    actual = served_outputs(model, support, query)
    for task, row, part in (
        (0, 0, parts[1]),
        (0, 1, parts[0]),
        (0, 2, of_user[0, 2, 2:]),
        (1, 0, parts[2]),
        (2, 0, parts[4]),
    ):
        embedding = tf.concat([stored.embedding[task], part], 0)[None]
        features = {name: v[task, row : row + 1] for name, v in query["features"].items()}
        np.testing.assert_allclose(
            actual[task, row], model.global_block(features, embedding)[0], rtol=1e-12
        )
    plain = model.network({name: v[3, :1] for name, v in query["features"].items()})
    np.testing.assert_allclose(actual[3, 0], plain[0], rtol=1e-12)


def test_the_order_of_tasks_and_more_padding_change_nothing(model):
    support, query = _samples(SUPPORT, 1), _samples(QUERY, 2)
    expected = model.adapted_outputs(model.adapt_tasks(support, 2), query["features"])
    order = [2, 0, 3, 1]
    turned, turned_query = (
        tf.nest.map_structure(lambda v: tf.gather(v, order), s) for s in (support, query)
    )
    wide = {
        "features": {
            n: tf.concat([v, v[:, :1], v[:, :1]], 1) for n, v in turned["features"].items()
        },
        "label": tf.pad(turned["label"], [[0, 0], [0, 2]]),
        "weight": tf.pad(turned["weight"], [[0, 0], [0, 2]]),
    }
    actual = model.adapted_outputs(model.adapt_tasks(wide, 2), turned_query["features"])
    np.testing.assert_allclose(actual, tf.gather(expected, order), rtol=1e-10)


def test_a_model_with_nested_blocks_survives_saving(model, tmp_path):
    query = _samples(QUERY, 2)["features"]
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.meta_block.nested_definitions == ("tab",)
    np.testing.assert_allclose(
        loaded(flatten_tasks(query)), model(flatten_tasks(query)), rtol=1e-12
    )


def test_blocks_that_cannot_be_nested_are_refused_by_what_was_received():
    with pytest.raises(
        ValueError, match=r"same embedding_dim, received embedding_dim \{'a': 2, 'b': 3\}"
    ):
        NestedMetaBlocks({"a": MLPMetaBlock((), 2), "b": MLPMetaBlock((), 3)})
    with pytest.raises(ValueError, match="two or more"):
        NestedMetaBlocks({"a": MLPMetaBlock((), 2)})
    with pytest.raises(ValueError, match=r"no subtasks of \['b'\]; make the encoder with nested="):
        NestedMetaBlocks({"a": MLPMetaBlock((), 2), "b": MLPMetaBlock((), 2)}).build(
            {"meta": (None, 3)}
        )
    inner = NestedMetaBlocks({"a": MLPMetaBlock((), 2), "b": MLPMetaBlock((), 2)})
    with pytest.raises(ValueError, match="may not be nested"):
        NestedMetaBlocks({"a": MLPMetaBlock((), 4), "b": inner})
