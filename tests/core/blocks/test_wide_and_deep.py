"""The wide part, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import flatten_tasks

from tfrec_limaml.blocks import MLPGlobalBlock, WideAndDeepGlobalBlock


def test_the_logit_is_the_deep_one_plus_a_weight_per_id_and_feature(
    make_model, make_samples, shapes
):
    block = make_model("mlp", "wide_and_deep").global_block
    rows = flatten_tasks(make_samples([3, 2])["features"])
    embedding = np.ones((6, 4))
    alone = MLPGlobalBlock(
        block.hidden_units,
        block.activation,
        embeddings=block.inputs_layer.embeddings,
        dtype=block.dtype_policy,
    )
    alone.build(shapes, (None, 4))
    for name in ("inputs_layer", "context_layer", "embedding_layer", "network"):
        getattr(alone, name).set_weights(getattr(block, name).get_weights())
    deep = alone(rows, embedding)
    wide = np.concatenate([rows["meta"], rows["other"]], -1) @ block.wide_layer.get_weights()[0]
    for name, table in block.wide_tables.tables.items():
        wide = wide + table.numpy()[rows[name]]
    np.testing.assert_allclose(block(rows, embedding), deep + wide[:, 0], rtol=1e-10)


def test_without_ids_the_wide_part_is_linear_in_the_features(shapes, make_samples):
    block = WideAndDeepGlobalBlock((3,), dtype="float64")
    block.build(shapes, (None, 4))
    rows = flatten_tasks(make_samples([2])["features"])
    context, wide = block.encode_context(rows)
    assert context.shape == (2, 3)
    np.testing.assert_allclose(
        wide,
        (np.concatenate([rows["meta"], rows["other"]], -1) @ block.wide_layer.get_weights()[0])[
            :, 0
        ],
    )


def test_an_empty_id_feature_is_named():
    with pytest.raises(
        ValueError,
        match=r"wide_ids must give every feature at least one id, received \{'user': 0\}",
    ):
        WideAndDeepGlobalBlock((3,), {"user": 0})
