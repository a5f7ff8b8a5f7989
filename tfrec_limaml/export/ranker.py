"""The ranker: features and a meta embedding to a probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfrec_limaml import manifest as names
from tfrec_limaml.export.signatures import Exported, traced
from tfrec_limaml.features import META, OTHER, Features
from tfrec_limaml.models import LiMAML
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.feature_encoder import DTYPES

Columns = Mapping[str, tf.Tensor]


def ranker_module(model: LiMAML) -> Exported:
    """The ranker and its three signatures; see `tfrec_limaml.manifest` for their names and
    shapes.
    """
    schema: Schema = model.encoder.schema
    dim = model.meta_block.stored_dim
    embedding_inputs = names.embedding_inputs(model.meta_block.nested_definitions)
    by_role = {
        role: [f.name for f in schema.all_features if f.role == role] for role in (META, OTHER)
    }

    def outputs(features: Features, vectors: tf.Tensor) -> dict[str, tf.Tensor]:
        logit = tf.cast(model.global_block(features, vectors), tf.float32)
        return {names.PROBABILITY: model.predictions(logit), names.LOGIT: logit}

    def vectors(features: Features, inputs: Columns) -> tf.Tensor:
        embeddings = tf.split(model.meta_block(features), len(embedding_inputs), -1)
        parts = [
            model.meta_block.from_stored(inputs[stored], inputs[has][:, None], unadapted)
            for (stored, has), unadapted in zip(embedding_inputs, embeddings, strict=True)
        ]
        return tf.concat(parts, -1)

    def score(inputs: Columns) -> dict[str, tf.Tensor]:
        features = model.encoder({name: inputs[name] for name in by_role[META] + by_role[OTHER]})
        return outputs(features, vectors(features, inputs))

    def rank(inputs: Columns) -> dict[str, tf.Tensor]:
        rows = _rows(inputs)
        member = {name: inputs[name] for name in by_role[META]}
        candidates = {name: inputs[name] for name in by_role[OTHER]}
        # A member's own columns are encoded once, not once per candidate.
        member_rows = tf.minimum(_longest(member), rows)  # after the check of all inputs
        meta = model.encoder.encode_role(META, _repeated(member, member_rows))
        try:
            embedding = {names.META_EMBEDDING: vectors(meta, inputs)}
        except KeyError:  # a meta block that reads other features too, or nested definitions
            return score(_repeated(inputs, rows))
        features = model.encoder.encode_role(OTHER, _repeated(candidates, rows))
        return outputs(
            {**_repeated(meta, rows), **features},
            _repeated(embedding, rows)[names.META_EMBEDDING],
        )

    def parsed(inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return score(_parse_examples(inputs[names.EXAMPLES], schema, embedding_inputs, dim))

    rows = {
        f.name: tf.TensorSpec([None] if f.width == 1 else [None, f.width], DTYPES[f.dtype])
        for f in schema.all_features
    }
    for stored, has in embedding_inputs:
        rows[stored], rows[has] = (
            tf.TensorSpec([None, dim], tf.float32),
            tf.TensorSpec([None], tf.bool),
        )
    serialized = {names.EXAMPLES: tf.TensorSpec([None], tf.string)}
    return traced(
        model,
        {
            names.SERVING_SIGNATURE: (lambda **inputs: score(inputs), rows),
            names.RANK_SIGNATURE: (lambda **inputs: rank(inputs), rows),
            names.EXAMPLES_SIGNATURE: (lambda **inputs: parsed(inputs), serialized),
        },
    )


def _parse_examples(
    examples: tf.Tensor, schema: Schema, embedding_inputs: Sequence[tuple[str, str]], dim: int
) -> dict[str, tf.Tensor]:
    """Raw features and stored embeddings of serialized ``tf.Example`` messages ``[N]``."""
    columns = tf.io.parse_example(
        examples, {f.name: _example_feature(f) for f in schema.all_features}
    )
    stored_values = tf.io.parse_example(
        examples, {name: tf.io.RaggedFeature(tf.float32) for name, _ in embedding_inputs}
    )
    for name, has in embedding_inputs:
        lengths = stored_values[name].row_lengths()
        columns[has] = lengths > 0
        width = tf.where(columns[has], lengths, dim)
        tf.debugging.assert_equal(
            width, tf.cast(dim, width.dtype), f"{name} must hold {dim} values or none"
        )
        columns[name] = stored_values[name].to_tensor(shape=[None, dim])
    return columns


def _rows(inputs: Columns) -> tf.Tensor:
    """Rows of the longest input; the others must have as many, or one."""
    given = list(inputs)
    lengths = _lengths(inputs)
    rows = tf.reduce_max(lengths)
    allowed = tf.logical_or(tf.equal(lengths, rows), tf.equal(lengths, 1))
    check = tf.debugging.Assert(
        tf.reduce_all(allowed),
        [
            "inputs must have 1 row or as many as the longest input; these have not:",
            tf.boolean_mask(given, tf.logical_not(allowed)),
            "rows of the longest input:",
            rows,
        ],
        summarize=len(given),
    )
    with tf.control_dependencies([check]):  # or another operation that fails may be first
        return tf.identity(rows)


def _longest(inputs: Columns) -> tf.Tensor:
    return tf.reduce_max(_lengths(inputs)) if inputs else tf.constant(1)


def _lengths(inputs: Columns) -> tf.Tensor:
    return tf.stack([tf.size(v) if v.shape.rank == 1 else tf.shape(v)[0] for v in inputs.values()])


def _repeated(inputs: Columns, rows: tf.Tensor) -> dict[str, tf.Tensor]:
    """Inputs of one row with that row `rows` times."""
    column = tf.stack([rows])
    return {
        name: tf.broadcast_to(value, tf.concat([column, value.shape[1:]], 0))
        if value.shape.rank > 1
        else tf.broadcast_to(value, column)
        for name, value in inputs.items()
    }


def _example_feature(feature: Feature) -> tf.io.FixedLenFeature:
    default = None if feature.on_invalid != "fill" or feature.width > 1 else feature.default_value
    return tf.io.FixedLenFeature(
        [] if feature.width == 1 else [feature.width], DTYPES[feature.dtype], default
    )
