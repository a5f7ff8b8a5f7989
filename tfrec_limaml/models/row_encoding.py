"""Rows are encoded once; their outputs are computed for any adapted weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfrec_limaml.adaptation.inner_loop import Weights
from tfrec_limaml.adaptation.real_rows import RealRows
from tfrec_limaml.features import Features
from tfrec_limaml.models.adapted_tasks import AdaptedTasks
from tfrec_limaml.models.maml_model import MAMLModel
from tfrec_limaml.models.outer_step import Samples


class EncodedRows(NamedTuple):
    """The parts of rows ``[T, N, ...]`` that adaptation does not change.

    Attributes:
        encoded: The meta block's input.
        context: The global block's context of the real rows ``[M, ...]``.
        real: Which rows are real.
    """

    encoded: Any
    context: Any
    real: RealRows


class EncodesRows(MAMLModel):
    """A model that computes once per row whatever adaptation does not change."""

    def encode_samples(self, samples: Samples, training: bool) -> EncodedRows:
        """The encoded rows of a support or query set."""
        return self.encode_rows(samples["features"], samples["weight"], training)

    def encode_rows(
        self, features: Features, weight: tf.Tensor | None, training: bool
    ) -> EncodedRows:
        """The encoded rows of features ``[T, N, ...]`` with weights ``[T, N]``."""
        real = self.real_rows(features, weight)
        context = self.global_block.encode_context(real.take_features(features), training)
        return EncodedRows(self.encode_meta(features, real), context, real)

    def encode_meta(self, features: Features, real: RealRows) -> Any:
        """The meta block's input ``[T, N, ...]``."""
        encoded = self.meta_block.encode_features(real.take_features(features))
        return tf.nest.map_structure(real.spread, encoded)

    def outputs_of_rows(
        self, adapted: AdaptedTasks, rows: EncodedRows, causal: bool, training: bool
    ) -> tf.Tensor:
        """Outputs ``[T, N]`` of rows with adapted weights.

        `causal` hides later support rows from each support row.
        """
        encoded = self.meta_block.read_support(rows.encoded, adapted.memory, causal=causal)
        return self.head(adapted.weights, encoded, rows, training)

    def head(self, weights: Weights, encoded: Any, rows: EncodedRows, training: bool) -> tf.Tensor:
        """Outputs ``[T, N]`` of rows under per-task weights.

        `encoded` is the meta block's input, after `MetaBlock.read_support`.
        """
        embeddings = self.meta_block.call_adapted(weights, encoded, training)
        return self.outputs_from(rows, embeddings, training)

    def outputs_from(self, rows: EncodedRows, embeddings: tf.Tensor, training: bool) -> tf.Tensor:
        """Outputs ``[T, N]`` of rows with the meta embeddings ``[T, N, D]``."""
        logits = self.global_block.head(rows.context, rows.real.take(embeddings), training)
        return rows.real.spread(logits)
