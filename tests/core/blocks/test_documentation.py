"""The code in the guide to one's own models runs as it stands."""

from __future__ import annotations

import re

import pytest
import tensorflow as tf


@pytest.fixture(scope="module")
def names(checkout):
    text = (checkout / "docs" / "bring_your_own_model.md").read_text(encoding="utf-8")
    actual: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "bring_your_own_model.md", "exec"), actual)
    return actual


def test_the_model_of_the_guide_is_trained_and_adapts(names):
    model = names["model"]
    assert model.optimizer.iterations == 2
    assert [type(block).__name__ for block in (model.meta_block, model.global_block)] == [
        "KerasMetaBlock",
        "FunctionalGlobalBlock",
    ]


def test_the_guide_s_own_block_works_in_a_model(names):
    model = names["LiMAML"](names["meta_block"], names["GatedGlobalBlock"](8))
    model.build({"meta": (None, 6), "other": (None, 4), "item": (None,)})
    batch = tf.nest.map_structure(tf.constant, names["samples"](3, 2))
    adapted = model.adapt_tasks(batch, 1)
    assert model.adapted_outputs(adapted, batch["features"]).shape == (3, 2)
    assert adapted.losses[0].shape == (3,)


def test_the_layers_of_the_guide_s_existing_model_read_its_columns(names):
    stack = names["keras"].layers.Dense(8)
    meta_block = names["KerasMetaBlock"](stack, embedding_dim=8)
    block, encoder = names["personalised"], names["encoder"]
    assert names["LiMAML"](meta_block, block, encoder=encoder).built
    raw = {"age": [40.0, 3.0], "price": [9.5, 2.0], "hour": [3.0, 23.0]}
    columns = {name: tf.constant(values) for name, values in raw.items()}
    rows = encoder({**columns, "item_id": tf.constant([7, 8], tf.int64)})
    inputs = {"item_id": rows["item_id"]}
    inputs |= {name: columns[name][:, None] for name in ("price", "hour")}
    (context,) = block.encode_context(rows)
    tf.debugging.assert_near(context, names["trained"](inputs))
