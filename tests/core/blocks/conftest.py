"""Data for the tests of all blocks: five tasks with uneven histories, and every block by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock, blocks

SIZES = {"user": 6, "item": 9}
SHAPES = {
    "user": (None,),
    "item": (None,),
    "meta": (None, 3),
    "other": (None, 2),
    "subtask:tab": (None,),
}
D = 4


def _stack(dtype: str = "float32") -> keras.Sequential:
    return keras.Sequential(
        [
            keras.layers.Dense(5, "tanh", dtype=dtype),
            keras.layers.LayerNormalization(dtype=dtype),
            keras.layers.Dense(D, dtype=dtype),
        ]
    )


def _functional(dtype: str = "float32") -> keras.Model:
    kind = keras.dtype_policies.get(dtype).compute_dtype
    item = keras.Input((), dtype="int32", name="item")
    dense = [
        keras.Input((width,), dtype=kind, name=name) for name, width in (("meta", 3), ("other", 2))
    ]
    embedding_input = keras.Input((D,), dtype=kind, name="meta_embedding")
    hidden = keras.layers.Dense(5, "tanh", dtype=dtype)(
        keras.layers.Concatenate(dtype=dtype)(dense)
    )
    looked_up = keras.layers.Embedding(SIZES["item"], 3, dtype=dtype)(item)
    joined = keras.layers.Concatenate(dtype=dtype)(
        [looked_up, keras.layers.Dense(5, dtype=dtype)(embedding_input), hidden]
    )
    return keras.Model(
        [item, *dense, embedding_input],
        keras.layers.Dense(1, dtype=dtype)(keras.layers.Dense(4, "tanh", dtype=dtype)(joined)),
    )


META_BLOCKS: dict[str, Callable[..., Any]] = {
    "mlp": lambda **k: MLPMetaBlock((5,), D, "tanh", **k),
    "id": lambda **k: blocks.IDEmbeddingMetaBlock("user", SIZES["user"], D, **k),
    "features+id": lambda **k: blocks.FeaturesAndIDMetaBlock(
        "user", SIZES["user"], 2, hidden_units=(5,), embedding_dim=D, activation="tanh", **k
    ),
    "transformer": lambda **k: blocks.TransformerMetaBlock((5,), D, 4, 2, activation="tanh", **k),
    "keras": lambda **k: blocks.KerasMetaBlock(_stack(**k), D, **k),
    "offset": lambda **k: blocks.OffsetMetaBlock((5,), D, **k),
    "offset with encoder": lambda **k: blocks.OffsetMetaBlock(
        (5,), D, support_encoder=blocks.SupportEncoder(D, 6, with_age=False, **k), **k
    ),
    "nested": lambda **k: blocks.NestedMetaBlocks(
        {
            "user": MLPMetaBlock((5,), D // 2, "tanh", **k),
            "tab": blocks.TransformerMetaBlock((5,), D // 2, 4, 2, activation="tanh", **k),
        },
        **k,
    ),
}
GLOBAL_BLOCKS: dict[str, Callable[..., Any]] = {
    "mlp": lambda **k: MLPGlobalBlock((6, 5), "tanh", embeddings={"item": (SIZES["item"], 3)}, **k),
    "wide_and_deep": lambda **k: blocks.WideAndDeepGlobalBlock(
        (6, 5),
        {"user": SIZES["user"], "item": SIZES["item"]},
        activation="tanh",
        embeddings={"item": (SIZES["item"], 3)},
        **k,
    ),
    "dcn": lambda **k: blocks.DCNGlobalBlock(
        (6, 5), 2, activation="tanh", embeddings={"item": (SIZES["item"], 3)}, **k
    ),
    "dcn of all": lambda **k: blocks.DCNGlobalBlock((6,), 1, 2, True, activation="tanh", **k),
    "dlrm": lambda **k: blocks.DLRMGlobalBlock((6, 5), SIZES, 3, activation="tanh", **k),
    "functional": lambda **k: blocks.FunctionalGlobalBlock(_functional(**k), **k),
}


@pytest.fixture(scope="session")
def shapes() -> dict[str, tuple[int | None, ...]]:
    return dict(SHAPES)


@pytest.fixture(scope="session")
def meta_blocks() -> Mapping[str, Callable[..., Any]]:
    return META_BLOCKS


@pytest.fixture(params=META_BLOCKS)
def meta_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=GLOBAL_BLOCKS)
def global_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def make_samples() -> Callable[..., dict[str, Any]]:
    """``make_samples(lengths, dtype, seed)``: samples of one task per length, padded with zeros."""

    def make(lengths: Any, dtype: str = "float64", seed: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng(seed)
        tasks, width = len(lengths), max(*lengths, 1)
        real = np.arange(width) < np.asarray(lengths)[:, None]
        values = {
            "user": np.arange(1, tasks + 1)[:, None] * real,
            "item": rng.integers(0, SIZES["item"], (tasks, width)) * real,
            "meta": rng.normal(size=(tasks, width, 3)) * real[..., None],
            "other": rng.normal(size=(tasks, width, 2)) * real[..., None],
        }
        features = {
            name: tf.constant(v, "int32" if v.ndim == 2 else dtype) for name, v in values.items()
        }
        features["subtask:tab"] = tf.constant(
            np.random.default_rng(seed).integers(0, 2, (tasks, width)), "int64"
        )
        label = (rng.random((tasks, width)) < 0.5) * real
        return {
            "features": features,
            "label": tf.constant(label, dtype),
            "weight": tf.constant(real, dtype),
        }

    return make


@pytest.fixture(scope="session")
def make_model() -> Callable[..., LiMAML]:
    """``make_model(meta_name, global_name, dtype, **options)``: a model with random weights."""

    def make(
        meta: str = "mlp", head: str = "mlp", dtype: str = "float64", **options: Any
    ) -> LiMAML:
        keras.utils.set_random_seed(7)
        options = {"inner_learning_rate": 0.5, **options}
        model = LiMAML(
            META_BLOCKS[meta](dtype=dtype), GLOBAL_BLOCKS[head](dtype=dtype), dtype=dtype, **options
        )
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
        model.build(dict(SHAPES))
        rng = np.random.default_rng(8)
        for variable in model.trainable_variables:
            variable.assign(rng.normal(size=variable.shape) * 0.5)
        return model

    return make
