"""The ranker: computes a probability, or another prediction, from features and a meta embedding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfrec_limaml import manifest as names
from tfrec_limaml.blocks.features_read import features_read
from tfrec_limaml.blocks.joint import JointMetaBlocks
from tfrec_limaml.blocks.optional_methods import scores_once
from tfrec_limaml.export.signatures import Exported, trace_functions
from tfrec_limaml.features import META, OTHER, Features
from tfrec_limaml.models import LiMAML
from tfrec_limaml.schema.schema import Feature, Schema
from tfrec_limaml.tasks.columns import Lengths, RepeatedColumns, repeat_row
from tfrec_limaml.tasks.feature_encoder import DTYPES

Inputs = Mapping[str, tf.Tensor]


def ranker_module(model: LiMAML) -> Exported:
    """The ranker and its three signatures; `tfrec_limaml.manifest` has their names and shapes."""
    ranker = _Ranker(model)
    rows = {
        f.name: tf.TensorSpec([None] if f.width == 1 else [None, f.width], DTYPES[f.dtype])
        for f in model.encoder.schema.all_features
    }
    for stored, has in ranker.embedding_inputs:
        rows[stored] = tf.TensorSpec([None, ranker.dim], tf.float32)
        rows[has] = tf.TensorSpec([None], tf.bool)
    serialized = {names.EXAMPLES: tf.TensorSpec([None], tf.string)}
    return trace_functions(
        model,
        {
            names.SERVING_SIGNATURE: (lambda **inputs: ranker.score(inputs), rows),
            names.RANK_SIGNATURE: (lambda **inputs: ranker.rank(inputs), rows),
            names.EXAMPLES_SIGNATURE: (lambda **inputs: ranker.score_examples(inputs), serialized),
        },
        constants=True,
    )


class _Ranker:
    """The functions of the signatures.

    Args:
        model: A built model.

    Attributes:
        embedding_inputs: Names of each stored embedding and of its flag.
        dim: Width of a stored embedding.
    """

    def __init__(self, model: LiMAML) -> None:
        self._model = model
        self._schema: Schema = model.encoder.schema
        self._by_role = {
            role: [f.name for f in self._schema.all_features if f.role == role]
            for role in (META, OTHER)
        }
        self.embedding_inputs = names.embedding_inputs(model.meta_block.further_definitions)
        self.dim = model.meta_block.stored_dim
        self._features_read = features_read(model.meta_block, model.encoder.output_shapes)

    def score(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """Scores of rows ``[N]``."""
        features = self._model.encoder({f.name: inputs[f.name] for f in self._schema.all_features})
        return self._scores(features, self._embeddings(features, inputs))

    def score_examples(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """Scores of serialized ``tf.Example`` messages ``[N]``."""
        examples = inputs[names.EXAMPLES]
        return self.score(_parse_examples(examples, self._schema, self.embedding_inputs, self.dim))

    def rank(self, inputs: Inputs) -> dict[str, tf.Tensor]:
        """Scores of rows ``[N]``; inputs of one row apply to all of them."""
        lengths = Lengths.measure(inputs)
        rows = _rows(lengths)
        member = {name: inputs[name] for name in self._by_role[META]}
        candidates = {name: inputs[name] for name in self._by_role[OTHER]}
        # A member's columns are encoded once, not once per candidate.
        longest = tf.reduce_max(lengths.select(list(member))) if member else tf.constant(1)
        member_rows = tf.minimum(longest, rows)  # after the check of all inputs
        encoder = self._model.encoder
        meta = encoder.encode_role(META, RepeatedColumns(member, lengths, member_rows))
        block = self._model.meta_block
        if isinstance(block, JointMetaBlocks):
            unadapted = block.call_side(0, meta)
        elif self._features_read <= meta.keys():
            unadapted = block(meta)
        else:
            return self.score({name: repeat_row(value, rows) for name, value in inputs.items()})
        parts = [self._embedding(0, unadapted, inputs)]
        features = encoder.encode_role(OTHER, RepeatedColumns(candidates, lengths, rows))
        if isinstance(block, JointMetaBlocks):
            parts.append(self._embedding(1, block.call_side(1, features), inputs))
        return self._scores_once(meta, features, parts, rows)

    def _scores_once(
        self, meta: Features, features: Features, parts: Sequence[tf.Tensor], rows: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Scores of rows that share a member: `meta` and embeddings may have one row."""
        block = self._model.global_block
        if not scores_once(block):
            full_batch = {name: repeat_row(value, rows) for name, value in meta.items()}
            embeddings = tf.concat([repeat_row(part, rows) for part in parts], -1)
            return self._scores({**full_batch, **features}, embeddings)
        context = block.encode_context_once({**meta, **features}, meta.keys())
        logits = block.head_of_parts(context, parts, rows)
        # There may be one logit: features with many rows may be ones that the block does not read.
        return self._answers(repeat_row(logits, rows))

    def _scores(self, features: Features, embeddings: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._answers(self._model.global_block(features, embeddings))

    def _answers(self, outputs: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = tf.cast(outputs, tf.float32)
        if not self._model.binary:
            return {names.PREDICTION: outputs}
        return {names.PROBABILITY: self._model.predictions(outputs), names.LOGIT: outputs}

    def _embeddings(self, features: Features, inputs: Inputs) -> tf.Tensor:
        block = self._model.meta_block
        unadapted = tf.split(block(features), len(self.embedding_inputs), -1)
        parts = [self._embedding(n, part, inputs) for n, part in enumerate(unadapted)]
        return tf.concat(parts, -1)

    def _embedding(self, number: int, unadapted: tf.Tensor, inputs: Inputs) -> tf.Tensor:
        """Embeddings of one definition, stored or un-adapted."""
        stored, has = self.embedding_inputs[number]
        has_embedding = inputs[has][:, None]
        return self._model.meta_block.from_stored(inputs[stored], has_embedding, unadapted)


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


def _rows(lengths: Lengths) -> tf.Tensor:
    """Rows of the longest input; the others must have as many, or one."""
    rows = tf.reduce_max(lengths.values)
    mismatch = tf.logical_and(lengths.values != rows, lengths.values != 1)
    wrong_names = tf.strings.reduce_join(tf.where(mismatch, [f"{n}, " for n in lengths.names], ""))
    check = tf.debugging.Assert(
        tf.logical_not(tf.reduce_any(mismatch)),
        [
            "inputs must have 1 row or as many as the longest input; these do not:",
            wrong_names,
            "rows of the longest input:",
            rows,
        ],
    )
    with tf.control_dependencies([check]):  # otherwise another operation may fail first
        return tf.identity(rows)


def _example_feature(feature: Feature) -> tf.io.FixedLenFeature:
    default = None if feature.on_invalid != "fill" or feature.width > 1 else feature.default_value
    return tf.io.FixedLenFeature(
        [] if feature.width == 1 else [feature.width], DTYPES[feature.dtype], default
    )
