"""Embeddings of a user's own layers have a row for every id of the encoder."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf
from toys import toy_schema, toy_statistics

from tfrec_limaml import Feature, FeatureEncoder, GlobalBlock, LiMAML, MLPMetaBlock
from tfrec_limaml.blocks import FunctionalGlobalBlock
from tfrec_limaml.errors import LimamlError

IDS = 6


@pytest.fixture(scope="module")
def encoder():
    hashed = {"dtype": "int64", "encoding": "hash", "buckets": IDS, "embedding_width": 2}
    features = [
        Feature(name="age", role="meta", normalise="none"),
        Feature(name="item", **hashed),
        Feature(name="tag", **hashed),
    ]
    return FeatureEncoder(toy_schema(*features), toy_statistics())


def _functional(number):
    item, tag = (keras.Input((), dtype="int32", name=name) for name in ("item", "tag"))
    meta_embedding = keras.Input((3,), name="meta_embedding")
    rows = [keras.layers.Embedding(IDS, 2)(item), keras.layers.Embedding(number, 2)(tag)]
    logit = keras.layers.Dense(1)(keras.layers.Concatenate()([*rows, meta_embedding]))
    return FunctionalGlobalBlock(keras.Model([item, tag, meta_embedding], logit))


class _OwnGlobal(GlobalBlock):
    """Looks the ids up in its head."""

    def __init__(self, number, **kwargs):
        super().__init__(**kwargs)
        self.table, self.logit = keras.layers.Embedding(number, 2), keras.layers.Dense(1)

    def encode_context(self, features, training=False):
        return features["tag"]

    def head(self, context, meta_embedding, training=False):
        return self.logit(tf.concat([self.table(context), meta_embedding], -1))[..., 0]


class _OwnMeta(MLPMetaBlock):
    """Reads an id too."""

    def __init__(self, number):
        super().__init__((), 3)
        self.table = keras.layers.Embedding(number, 1)

    def encode_features(self, features):
        return super().encode_features(features) + self.table(features["tag"])


@pytest.mark.parametrize("make", [_functional, _OwnGlobal])
def test_an_embedding_with_too_few_rows_is_refused_when_the_model_is_made(encoder, make):
    message = rf"has no row for the id {IDS - 1} of the feature 'tag'; make its .* for {IDS} ids"
    with pytest.raises(LimamlError, match=message):
        LiMAML(MLPMetaBlock((4,), 3), make(IDS - 1), encoder=encoder)
    assert LiMAML(MLPMetaBlock((4,), 3), make(IDS), encoder=encoder).built


def test_ids_of_an_own_meta_block_are_checked_too(encoder):
    with pytest.raises(LimamlError, match=r"\(_OwnMeta\) has no row .* of the feature 'tag'"):
        LiMAML(_OwnMeta(IDS - 1), _functional(IDS), encoder=encoder)
    assert LiMAML(_OwnMeta(IDS), _functional(IDS), encoder=encoder).built
