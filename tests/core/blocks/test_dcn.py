"""Feature crosses, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from small_models import flatten_tasks

from tfrec_limaml.blocks import DCNGlobalBlock, MLPGlobalBlock


@pytest.mark.parametrize("name", ["dcn", "dcn of all"])
def test_the_logit_is_the_deep_one_plus_one_on_crosses(name, make_model, make_samples):
    block = make_model("mlp", name).global_block
    rows = flatten_tasks(make_samples([3, 2])["features"])
    embedding = np.random.default_rng(0).normal(size=(6, 4))
    inputs = block.inputs_layer(rows).numpy()
    deep = MLPGlobalBlock.head(block, block.context_layer(inputs), embedding)
    start = np.concatenate([inputs, embedding], -1) if block.cross_meta_embedding else inputs
    crossed = start
    for cross in block.crosses:
        *kernels, bias = cross.get_weights()
        crossed = (
            start * (crossed @ np.linalg.multi_dot([*kernels, np.eye(start.shape[-1])]) + bias)
            + crossed
        )
    np.testing.assert_allclose(
        block(rows, embedding),
        deep + (crossed @ block.cross_logit.get_weights()[0])[:, 0],
        rtol=1e-9,
    )


@pytest.mark.parametrize(
    ("argument", "value"), [("cross_layers", 0), ("projection_dim", 0), ("hidden_units", ())]
)
def test_arguments_out_of_range_are_named(argument, value):
    with pytest.raises(ValueError, match=f"{argument}.* received"):
        DCNGlobalBlock(**{"hidden_units": (3,), argument: value})
