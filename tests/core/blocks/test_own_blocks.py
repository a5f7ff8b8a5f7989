"""A user's own subclasses of the two base classes."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import task_batches

from tfrec_limaml import GlobalBlock, LiMAML, MetaBlock, Vanilla
from tfrec_limaml.errors import LimamlError

D = 3


@keras.saving.register_keras_serializable("own_blocks")
class _MetaWithoutBuild(MetaBlock):
    def __init__(self, embedding_dim=D, **kwargs):
        super().__init__(embedding_dim, **kwargs)
        self.dense = keras.layers.Dense(embedding_dim)

    def encode_features(self, features):
        return features["meta"]

    @property
    def adaptable_variables(self):
        return self.dense.trainable_variables

    def call_encoded(self, encoded, training=False):
        return self.dense(encoded)

    def call_adapted(self, weights, encoded, training=False):
        kernel, bias = weights
        return encoded @ kernel + bias[:, None]


@keras.saving.register_keras_serializable("own_blocks")
class _GlobalWithoutBuild(GlobalBlock):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tower, self.gate = keras.layers.Dense(4, "relu"), keras.layers.Dense(4, "sigmoid")
        self.logit = keras.layers.Dense(1)

    def encode_context(self, features, training=False):
        return self.tower(features["other"], training=training)

    def head(self, context, meta_embedding, training=False):
        return self.logit(context * self.gate(meta_embedding))[..., 0]


@pytest.mark.filterwarnings("error:.build.. was called on layer")
def test_blocks_without_a_method_build_are_trained_and_saved_with_all_their_weights(tmp_path):
    keras.utils.set_random_seed(1)
    model = LiMAML(_MetaWithoutBuild(), _GlobalWithoutBuild(), inner_steps=1)
    model.compile(keras.optimizers.SGD(0.5))
    dataset = task_batches()
    model.build({n: (None, *s.shape[2:]) for n, s in _features(dataset).items()})
    before = {v.path: v.numpy() for v in model.trainable_variables}
    assert len(before) == 8
    model.fit(dataset, verbose=0)
    for variable in model.trainable_variables:
        assert np.any(variable.numpy() != before[variable.path]), variable.path
    model.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    np.testing.assert_array_equal(
        loaded.predict(dataset, verbose=0)["probability"],
        model.predict(dataset, verbose=0)["probability"],
    )


class _ScaledMeta(_MetaWithoutBuild):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale


class _ScaledGlobal(_GlobalWithoutBuild):
    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale


@pytest.mark.parametrize("cls", [_ScaledMeta, _ScaledGlobal])
def test_a_block_is_not_saved_without_its_arguments(cls):
    message = rf"{cls.__name__} would be saved without its arguments \['scale'\]; .*self.scale\}}"
    with pytest.raises(LimamlError, match=message):
        cls(scale=5.0).get_config()

    class Complete(cls):
        def get_config(self):
            return {**super().get_config(), "scale": self.scale}

    assert Complete.from_config(Complete(scale=5.0).get_config()).scale == 5.0


def _columns(block):
    block.logit = keras.layers.Dense(1, name="logit")
    block.head = lambda context, embedding, training=False: block.logit(context)


def _one_value(block):
    block.head = lambda context, embedding, training=False: tf.reduce_mean(context)


def _too_wide(block):
    block.dense = keras.layers.Dense(D + 1)


def _without_rows(block):
    block.call_adapted = lambda weights, encoded, training=False: tf.reduce_mean(encoded, 1)


def _of_another_feature(block):
    block.encode_features = lambda features: features["topic"]


def _with_its_own_variables(block):
    block.call_adapted = lambda weights, encoded, training=False: block.dense(encoded)


def _without_the_embedding(block):
    block.head = lambda context, embedding, training=False: block.logit(context)[..., 0]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            _columns,
            "global",
            r"head of the block 'mine' .* shape \[N\]; .* \(2, 1\); take",
        ),
        (_one_value, "global", r"head of the block 'mine' .* shape \[N\]; for N = 2 it gave \(\)"),
        (_too_wide, "meta", r"call_encoded of the block 'mine' .* D = 3 .* it gave \(2, 4\)"),
        (_without_rows, "meta", r"call_adapted of the block 'mine' .*\[T, S, D\].* \(3, 2\)"),
        (_of_another_feature, "meta", r"'mine' .* reads the feature 'topic'; there are \['meta', "),
        (_with_its_own_variables, "meta", r"call_adapted .*'mine' .* do not depend on .*`weights`"),
        (_without_the_embedding, "global", r"logits .*'mine' .* not depend on the meta embedding"),
    ],
)
def test_a_block_that_does_not_fit_is_named_when_the_model_is_built(change, kind, message):
    blocks = {"meta": _MetaWithoutBuild(name="mine"), "global": _GlobalWithoutBuild(name="mine")}
    change(blocks[kind])
    with pytest.raises(LimamlError, match=message):
        LiMAML(*blocks.values(), inner_steps=1).build({"meta": (None, 2), "other": (None, 5)})


def test_a_head_whose_weights_are_zero_at_first_depends_on_the_embedding_all_the_same():
    block = _GlobalWithoutBuild()
    block.logit = keras.layers.Dense(1, kernel_initializer="zeros")
    LiMAML(_MetaWithoutBuild(), block).build({"meta": (None, 2), "other": (None, 5)})


def test_blocks_without_a_method_build_are_built_in_the_first_call_of_a_graph_too():
    model = LiMAML(_MetaWithoutBuild(), _GlobalWithoutBuild(), inner_steps=1)
    shapes = {"meta": (None, 2), "other": (None, 5)}
    tf.function(lambda: model.build(shapes), autograph=False)()
    assert sorted(tuple(v.shape) for v in model.global_block.trainable_variables) == [
        (1,),
        (3, 4),
        (4,),
        (4,),
        (4, 1),
        (5, 4),
    ]


def _random_part(weight):
    random, weight = np.random.default_rng(0), np.float32(weight)
    widths = {"meta": 2, "other": 5}
    return {
        "features": {
            name: random.normal(size=(*weight.shape, width)).astype("float32")
            for name, width in widths.items()
        },
        "label": np.zeros_like(weight),
        "weight": weight,
    }


@pytest.mark.parametrize(
    ("make", "jit_compile", "expected"),
    [
        (Vanilla, False, lambda s, q: np.concatenate([_real(s), _real(q)])),
        (Vanilla, True, lambda s, q: np.concatenate([_all(s), _all(q)])),
        (LiMAML, False, lambda s, q: _real(q)),  # after those of the support set
    ],
)
def test_batch_statistics_are_those_of_real_rows_and_under_xla_of_all(make, jit_compile, expected):
    block, norm = _GlobalWithoutBuild(), keras.layers.BatchNormalization(momentum=0.0)
    block.tower = keras.Sequential([norm, keras.layers.Dense(4)])
    model = make(_MetaWithoutBuild(), block)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    support = _random_part([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    query = _random_part([[1.0, 0.0], [1.0, 1.0]])
    model.train_on_batch({"support": support, "query": query})
    rows = expected(support, query)
    np.testing.assert_allclose(norm.moving_mean, rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, rows.var(0), rtol=1e-5)


def _real(part):
    return part["features"]["other"][part["weight"] > 0]


def _all(part):
    return part["features"]["other"].reshape(-1, 5)


def _features(dataset):
    return dataset.element_spec["support"]["features"]
