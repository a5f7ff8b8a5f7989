"""Ranking with meta blocks that read more than the member's features."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfrec_limaml import LiMAML, MLPGlobalBlock, MLPMetaBlock
from tfrec_limaml.export.savedmodels import export_for_serving

DIM = 3


@keras.saving.register_keras_serializable("test_ranker_blocks")
class ReadsOtherFeatures(MLPMetaBlock):
    """A meta block that reads the other features too."""

    def encode_features(self, features):
        encoded = self.inputs_layer(features)
        return encoded * tf.reduce_sum(features["other"], -1, keepdims=True)


@keras.saving.register_keras_serializable("test_ranker_blocks")
class LacksAnEntry(MLPMetaBlock):
    """A meta block with a mistake of its own once features are missing."""

    def encode_features(self, features):
        return self.inputs_layer(features) * {len(features): 1.0}[self.count]


class LooksUp(MLPGlobalBlock):
    """A global block with tables of TensorFlow and of Keras."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        values = tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), [0.5, 1.5])
        self.tables = [tf.lookup.StaticHashTable(values, 1.0)]
        self.lookup = keras.layers.IntegerLookup(vocabulary=[0, 1, 2])

    def encode_context(self, features, training=False):
        sign = tf.cast(features["other"][:, :1] > 0, tf.int64)
        factor = self.tables[0].lookup(sign) + tf.cast(self.lookup(sign), tf.float32)
        return super().encode_context({**features, "other": features["other"] * factor}, training)


def test_tables_of_a_block_are_exported_with_it(encoder, request_inputs, tmp_path):
    meta = MLPMetaBlock((4,), DIM, embeddings=encoder.embeddings("meta"))
    model = LiMAML(meta, LooksUp((5,), embeddings=encoder.embeddings()), encoder=encoder)
    export_for_serving(model, tmp_path)
    ranker = tf.saved_model.load(str(tmp_path / "ranker" / "1"))
    nothing = {**request_inputs, "has_meta_embedding": tf.zeros(6, bool)}
    names = [f.name for f in encoder.schema.all_features]
    expected = model(encoder({name: request_inputs[name] for name in names}))
    scores = ranker.signatures["serving_default"](**nothing)["probability"]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_a_meta_block_that_reads_other_features_ranks_as_it_scores(
    encoder, request_inputs, tmp_path
):
    block = ReadsOtherFeatures((4,), DIM, embeddings=encoder.embeddings("meta"))
    head = MLPGlobalBlock((5,), embeddings=encoder.embeddings())
    export_for_serving(LiMAML(block, head, encoder=encoder), tmp_path)
    signatures = tf.saved_model.load(str(tmp_path / "ranker" / "1")).signatures
    member = ("age", "look", "class", "meta_embedding", "has_meta_embedding")
    inputs = {n: v[:1] if n in member else v for n, v in request_inputs.items()}
    repeated = {n: tf.repeat(v, 6, 0) if n in member else v for n, v in inputs.items()}
    ranked = signatures["rank"](**inputs)["logit"]
    np.testing.assert_allclose(ranked, signatures["serving_default"](**repeated)["logit"], 1e-5)


def test_a_key_error_of_a_meta_block_is_not_taken_for_one_that_reads_other_features(
    encoder, tmp_path
):
    block = LacksAnEntry((4,), DIM, embeddings=encoder.embeddings("meta"))
    block.count = len(encoder.output_shapes)
    model = LiMAML(block, MLPGlobalBlock((5,), embeddings=encoder.embeddings()), encoder=encoder)
    with pytest.raises(KeyError):
        export_for_serving(model, tmp_path)
