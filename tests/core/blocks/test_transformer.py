"""The transformer meta block: who sees what, and when."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml.blocks import TransformerMetaBlock


def _embeddings(model, support, causal):
    block = model.meta_block
    encoded = model.encode_samples(support, False).encoded
    memory = block.encode_support(encoded, support["label"], support["weight"])
    return block.read_support(encoded, memory, causal=causal)


def test_a_support_row_sees_strictly_earlier_rows_alone(make_model, make_samples):
    model = make_model("transformer")
    support = make_samples([5])
    before = _embeddings(model, support, causal=True)
    for row in range(5):
        changed = {
            **support,
            "label": tf.tensor_scatter_nd_add(
                support["label"], [[0, row]], tf.constant([1.0], tf.float64)
            ),
        }
        moved = np.abs(_embeddings(model, changed, causal=True) - before).max(-1)[0]
        np.testing.assert_array_equal(
            moved > 1e-12, np.arange(5) > row, err_msg=f"label of row {row}"
        )


def test_other_rows_see_the_whole_support_set_and_its_order(make_model, make_samples):
    model = make_model("transformer")
    support = make_samples([4])
    before = _embeddings(model, support, causal=False)
    for row in range(4):
        changed = {
            **support,
            "label": tf.tensor_scatter_nd_add(
                support["label"], [[0, row]], tf.constant([1.0], tf.float64)
            ),
        }
        assert np.abs(_embeddings(model, changed, causal=False) - before).max(-1).min() > 1e-12
    turned = tf.nest.map_structure(lambda value: tf.reverse(value, [1]), support)
    assert np.abs(tf.reverse(_embeddings(model, turned, causal=False), [1]) - before).max() > 1e-9


def test_padding_is_not_seen(make_model, make_samples):
    model = make_model("transformer")
    short, long = make_samples([3], seed=4), make_samples([3, 6], seed=4)
    padded = {
        "features": {
            name: tf.concat([short["features"][name], value[1:, :3]], 1)
            for name, value in long["features"].items()
        },
        "label": tf.concat([short["label"], long["label"][1:, :3]], 1),
        "weight": tf.concat([short["weight"], tf.zeros((1, 3), tf.float64)], 1),
    }
    np.testing.assert_allclose(
        model.task_embeddings(short)[0], model.task_embeddings(padded)[0], rtol=1e-6
    )  # softmax in float32, as Keras does it


def test_without_memory_every_row_reads_the_same_learned_vector(make_model, make_samples):
    block = make_model("transformer").meta_block
    rows = {name: value[0] for name, value in make_samples([3])["features"].items()}
    actual = block.read_support(block.encode_features(rows)[:, None], [], causal=False)[:, 0, 3:]
    value, output = (block.reader.get_weights()[i] for i in (2, 3))
    expected = np.einsum("w,whk,hkv->v", block.empty.numpy()[0, 0], value, output)
    np.testing.assert_allclose(actual, np.tile(expected, (3, 1)), rtol=1e-9)


def test_the_loss_after_adaptation_does_not_peek_at_the_row_s_own_label(make_model, make_samples):
    model = make_model("transformer", inner_learning_rate=0.0)
    support = make_samples([4, 2])
    _, before, after, *_ = model.task_embeddings(support)
    np.testing.assert_allclose(before, after, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 5}, "width must be a positive multiple of heads, received width=5, heads=2"),
        ({"memory_layers": -1}, "memory_layers must be at least 0, received -1"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TransformerMetaBlock((5,), 4, **{"heads": 2, **arguments})
