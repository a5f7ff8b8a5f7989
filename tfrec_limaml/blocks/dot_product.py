"""A global block that multiplies the meta embedding with a projection of the row."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.base import GlobalBlock, LayerCall, call_of
from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.blocks.mlp import hidden_layers, product_once
from tfrec_limaml.features import META, OTHER, Features


@keras.saving.register_keras_serializable("tfrec_limaml")
class DotProductGlobalBlock(GlobalBlock):
    """Logit = ``network(features) + [projection(features), 1] . meta embedding``.

    The logit is linear in the meta embedding, for three reasons. Multi-layer perceptrons learn dot
    products badly (Rendle et al., "Neural Collaborative Filtering vs. Matrix Factorization
    Revisited", RecSys 2020). Closed-form adaptation of the embedding is Bayesian logistic
    regression on the projection. And everything except one dot product is part of the context, so
    an inner step or another embedding costs almost nothing.

    The projection is a linear map of the network's last hidden layer plus, for each categorical
    feature with an embedding, a row of a separate table. Its initial values are small: with the
    usual ones training diverges. The last of the ``D`` numbers of the meta embedding is multiplied
    by 1; it is the task's intercept.

    Examples:
        >>> block = DotProductGlobalBlock((128, 64), embeddings={"item_id": (10_000, 16)})
        >>> model = LiMAML(OffsetMetaBlock(embedding_dim=33), block)

    Args:
        hidden_units: Widths of the network's hidden layers, at least one.
        activation: Activation of the hidden layers.
        dropout: Dropout rate after each hidden layer.
        embeddings: Categorical features to embed for the network: name to ``(number of ids,
            width)``.
        projected: Names among `embeddings` that have a row in the projection as well; all by
            default. Leave out features that identify the task.
        embeddings_regularizer: Keras regularizer of all tables.
        embeddings_scales: Fixed factors of the embeddings, one for each id, by name; see
            `tfrec_limaml.blocks.feature_embeddings.FeatureEmbeddings`.
        projected_scales: Like `embeddings_scales`, for the rows in the projection; the same factors
            by default.
        initial_logit: Initial bias of the output; the logit of the mean label shortens training.
        projection_scale: Approximate standard deviation of the projection's output before training.

    Raises:
        ValueError: `hidden_units` is empty, `projected` names a feature that `embeddings` lacks, or
            `projection_scale` is not positive.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (128, 64),
        activation: Any = "gelu",
        dropout: float = 0.0,
        embeddings: Mapping[str, tuple[int, int]] | None = None,
        projected: Sequence[str] | None = None,
        embeddings_regularizer: Any = None,
        embeddings_scales: Mapping[str, Sequence[float]] | None = None,
        projected_scales: Mapping[str, Sequence[float]] | None = None,
        initial_logit: float = 0.0,
        projection_scale: float = 0.1,
        **kwargs: Any,
    ) -> None:
        _check(hidden_units, projection_scale)
        super().__init__(**kwargs)
        self.hidden_units = tuple(hidden_units)
        self.activation = keras.activations.get(activation)
        self.dropout = float(dropout)
        self.projection_scale = float(projection_scale)
        policy = self.dtype_policy
        self.inputs_layer = FeatureEmbeddings(
            (META, OTHER),
            embeddings,
            embeddings_regularizer,
            embeddings_scales=embeddings_scales,
            dtype=policy,
            name="inputs",
        )
        self.projected = _projected_features(projected, self.inputs_layer.embeddings)
        default_scales = self.inputs_layer.embeddings_scales
        self.projected_scales = (
            default_scales if projected_scales is None else dict(projected_scales)
        )
        self.network = keras.Sequential(
            hidden_layers(self.hidden_units, self.activation, self.dropout, policy), name="network"
        )
        self.initial_logit = float(initial_logit)
        start = keras.initializers.Constant(self.initial_logit)
        self.logit_layer = keras.layers.Dense(1, bias_initializer=start, dtype=policy, name="logit")

    def build(
        self,
        features_shape: Mapping[str, tuple[int | None, ...]],
        meta_embedding_shape: tuple[int | None, ...],
    ) -> None:
        """Builds from the shapes of the encoded features and of the meta embedding.

        Raises:
            ValueError: The meta embedding has a single number, the intercept.
        """
        width = int(meta_embedding_shape[-1] or 0) - 1
        if width < 1:
            raise ValueError(
                f"{self.name}: embedding_dim must be at least 2 (its last number is the "
                f"intercept), received {width + 1}"
            )
        policy = self.dtype_policy
        self.inputs_layer.build(features_shape)
        self.network.build((None, self.inputs_layer.compute_output_shape(features_shape)[-1]))
        last = self.hidden_units[-1]
        self.logit_layer.build((None, last))
        initializer = keras.initializers.RandomNormal(0.0, 3 * self.projection_scale / last**0.5)
        self.projection_layer = keras.layers.Dense(
            width,
            use_bias=False,
            kernel_initializer=initializer,
            dtype=policy,
            name="projection",
        )
        self.projection_layer.build((None, last))
        self.tables = {
            name: FeatureEmbeddings(
                (),
                {name: (self.inputs_layer.embeddings[name][0], width)},
                self.inputs_layer.embeddings_regularizer,
                keras.initializers.RandomNormal(0.0, 0.3 * self.projection_scale),
                self.projected_scales,
                dtype=policy,
                name=f"projected_{i}",
            )
            for i, name in enumerate(self.projected)
        }
        for table in self.tables.values():
            table.build(features_shape)
        self.built = True

    def encode_context(
        self, features: Features, training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The network's logit ``[N]``, projection and a 1 ``[N, D]``, and the last hidden layer."""
        return self._context(features, call_of(training))

    def encode_context_once(
        self, features: Features, once: Collection[str]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The context of rows that share some features; see `GlobalBlock`."""
        first, *later_layers = self.network.layers
        hidden = product_once(self.inputs_layer, first, features, once)
        for layer in later_layers:
            hidden = layer(hidden)
        return self._context_of(hidden, features, call_of(training=False))

    def call_per_task(
        self, features: Features, meta_embedding: tf.Tensor, call: LayerCall
    ) -> tf.Tensor:
        """Logits ``[T, S]``; see `GlobalBlock`."""
        return self.head(self._context(features, call), meta_embedding)

    def _context(
        self, features: Features, call: LayerCall
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return self._context_of(call(self.network, self.inputs_layer(features)), features, call)

    def _context_of(
        self, hidden: tf.Tensor, features: Features, call: LayerCall
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        projection = call(self.projection_layer, hidden)
        for table in self.tables.values():
            projection = projection + table(features)
        ones = tf.ones_like(projection[..., :1])
        logit = call(self.logit_layer, hidden)[..., 0]
        return logit, tf.concat([projection, ones], -1), hidden

    def summarise(self, context: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        """The last hidden layer."""
        return context[2]

    def head(
        self,
        context: tuple[tf.Tensor, tf.Tensor, tf.Tensor],
        meta_embedding: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Logits ``[N]``."""
        logit, projection, _ = context
        return logit + tf.reduce_sum(projection * meta_embedding, -1)

    def linear_in(self, parts: int) -> bool:
        """True; see `GlobalBlock`."""
        return True

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "embeddings": self.inputs_layer.embeddings,
            "projected": self.projected,
            "embeddings_regularizer": keras.regularizers.serialize(
                self.inputs_layer.embeddings_regularizer
            ),
            "embeddings_scales": self.inputs_layer.embeddings_scales,
            "projected_scales": self.projected_scales,
            "initial_logit": self.initial_logit,
            "projection_scale": self.projection_scale,
        }


def _check(hidden_units: Sequence[int], projection_scale: float) -> None:
    if not hidden_units:
        raise ValueError("hidden_units needs at least one width, received none")
    if projection_scale <= 0:
        raise ValueError(f"projection_scale must be positive, received {projection_scale}")


def _projected_features(
    names: Sequence[str] | None, embedded: Mapping[str, Any]
) -> tuple[str, ...]:
    """The features that have rows in the projection: all embedded ones by default."""
    projected = tuple(embedded if names is None else names)
    if unknown := sorted(set(projected) - set(embedded)):
        raise ValueError(
            f"projected must name features in embeddings, received {unknown}; there are "
            f"{sorted(embedded)}"
        )
    return projected
