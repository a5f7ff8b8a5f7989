"""Multi-layer perceptrons as meta block and as global block: the paper's plain architecture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.inner_weights import DualKernel, SharedWeight
from tfrec_limaml.adaptation.per_task import apply_per_task
from tfrec_limaml.blocks.base import GlobalBlock, LayerCall, MetaBlock, call_of
from tfrec_limaml.blocks.feature_embeddings import FeatureEmbeddings
from tfrec_limaml.features import META, OTHER, Features

#: Input width from which the first kernel is kept in dual form: about the number of support samples
#: at which both forms cost the same.
DUAL_FROM_WIDTH = 48


@keras.saving.register_keras_serializable("tfrec_limaml")
class MLPMetaBlock(MetaBlock):
    """``dense -> activation -> ... -> dense`` on the meta features.

    Examples:
        >>> block = MLPMetaBlock((128,), embedding_dim=32, embeddings={"country": (50, 8)})

    Args:
        hidden_units: Widths of the hidden layers.
        embedding_dim: Width ``D`` of the meta embedding.
        activation: Activation of the hidden layers; the output is linear.
        dropout: Dropout rate after each hidden layer.
        embeddings: Categorical meta features to embed: name to ``(number of ids, width)``. The
            tables are shared by all tasks.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (128,),
        embedding_dim: int = 32,
        activation: Any = "relu",
        dropout: float = 0.0,
        embeddings: Mapping[str, tuple[int, int]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(embedding_dim, **kwargs)
        self.hidden_units = tuple(hidden_units)
        self.activation = keras.activations.get(activation)
        self.dropout = float(dropout)
        self.inputs_layer = FeatureEmbeddings(
            (META,), embeddings, dtype=self.dtype_policy, name="inputs"
        )
        self.network = keras.Sequential(
            hidden_layers(self.hidden_units, self.activation, self.dropout, self.dtype_policy),
            name="network",
        )
        self.network.add(
            keras.layers.Dense(self.embedding_dim, dtype=self.dtype_policy, name="embedding")
        )

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]]) -> None:
        """Builds from the shapes of the encoded features."""
        self.inputs_layer.build(features_shape)
        self.network.build((None, self.inputs_layer.compute_output_shape(features_shape)[-1]))
        self.built = True

    def encode_features(self, features: Features) -> tf.Tensor:
        """Dense meta features and embeddings, concatenated."""
        return self.inputs_layer(features)

    @property
    def adaptable_variables(self) -> list[keras.Variable]:
        """All kernels and biases; not the embedding tables."""
        return self.network.trainable_variables

    def initial_weights(self, encoded: tf.Tensor) -> list[Any]:
        """The shared weights in forms without a copy per task.

        The first kernel is a `DualKernel` if its input is wide.
        """
        return initial_forms(self.adaptable_variables, encoded)

    def call_adapted(
        self, weights: list[tf.Tensor], encoded: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """See `MetaBlock.call_adapted`."""
        return apply_per_task(self.network, weights, encoded, training)

    def call_encoded(self, encoded: tf.Tensor, training: bool = False) -> tf.Tensor:
        """See `MetaBlock.call_encoded`."""
        return self.network(encoded, training=training)

    def call_per_task(self, features: Features, call: LayerCall) -> tf.Tensor:
        """Embeddings ``[T, S, D]``; see `MetaBlock`."""
        return call(self.network, self.encode_features(features))

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "embeddings": self.inputs_layer.embeddings,
        }


@keras.saving.register_keras_serializable("tfrec_limaml")
class MLPGlobalBlock(GlobalBlock):
    """``dense -> activation -> ... -> logit`` on all features and the meta embedding.

    The first layer is linear in its input, so its product with the features is part of the context
    and only its product with the ``D`` embedding columns is repeated in every inner step.

    Examples:
        >>> block = MLPGlobalBlock((256, 128), embeddings={"item_id": (10_000, 16)})
        >>> model = LiMAML(MLPMetaBlock((128,), embedding_dim=32), block)

    Args:
        hidden_units: Widths of the hidden layers, at least one.
        activation: Activation of the hidden layers.
        dropout: Dropout rate after each hidden layer.
        embeddings: Categorical features to embed: name to ``(number of ids, width)``.
        embeddings_regularizer: Keras regularizer of the embedding tables.

    Raises:
        ValueError: `hidden_units` is empty.
    """

    def __init__(
        self,
        hidden_units: Sequence[int] = (256, 128),
        activation: Any = "relu",
        dropout: float = 0.0,
        embeddings: Mapping[str, tuple[int, int]] | None = None,
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        if not hidden_units:
            raise ValueError("hidden_units needs at least one width, received none")
        super().__init__(**kwargs)
        self.hidden_units = tuple(hidden_units)
        self.activation = keras.activations.get(activation)
        self.dropout = float(dropout)
        policy = self.dtype_policy
        self.inputs_layer = FeatureEmbeddings(
            (META, OTHER), embeddings, embeddings_regularizer, dtype=policy, name="inputs"
        )
        self.context_layer = keras.layers.Dense(self.hidden_units[0], dtype=policy, name="context")
        self.embedding_layer = keras.layers.Dense(
            self.hidden_units[0], use_bias=False, dtype=policy, name="embedding"
        )
        self.first_dropout = keras.layers.Dropout(self.dropout, dtype=policy)
        layers = hidden_layers(self.hidden_units[1:], self.activation, self.dropout, policy)
        self.network = keras.Sequential(layers, name="network")
        self.network.add(keras.layers.Dense(1, dtype=policy, name="logit"))

    def build(
        self,
        features_shape: Mapping[str, tuple[int | None, ...]],
        meta_embedding_shape: tuple[int | None, ...],
    ) -> None:
        """Builds from the shapes of the encoded features and of the meta embedding."""
        self.inputs_layer.build(features_shape)
        self.context_layer.build((None, self.inputs_layer.compute_output_shape(features_shape)[-1]))
        self.embedding_layer.build((None, meta_embedding_shape[-1]))
        self.network.build((None, self.hidden_units[0]))
        self.built = True

    def encode_context(self, features: Features, training: bool = False) -> Any:
        """The features' share of the first layer, ``[N, hidden_units[0]]``."""
        return self._context(features, call_of(training))

    def encode_context_once(self, features: Features, once: Collection[str]) -> Any:
        """The context of rows that share some features; see `GlobalBlock`."""
        return product_once(self.inputs_layer, self.context_layer, features, once)

    def head(self, context: Any, meta_embedding: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits ``[N]``."""
        return self._head(context, meta_embedding, call_of(training))

    def call_per_task(
        self, features: Features, meta_embedding: tf.Tensor, call: LayerCall
    ) -> tf.Tensor:
        """Logits ``[T, S]``; see `GlobalBlock`."""
        return self._head(self._context(features, call), meta_embedding, call)

    def _context(self, features: Features, call: LayerCall) -> Any:
        return call(self.context_layer, self.inputs_layer(features))

    def _head(self, context: Any, meta_embedding: tf.Tensor, call: LayerCall) -> tf.Tensor:
        hidden = self.activation(context + call(self.embedding_layer, meta_embedding))
        if self.dropout:
            hidden = call(self.first_dropout, hidden)
        return call(self.network, hidden)[..., 0]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {
            **super().get_config(),
            "hidden_units": self.hidden_units,
            "activation": keras.activations.serialize(self.activation),
            "dropout": self.dropout,
            "embeddings": self.inputs_layer.embeddings,
            "embeddings_regularizer": keras.regularizers.serialize(
                self.inputs_layer.embeddings_regularizer
            ),
        }


def initial_forms(variables: Sequence[keras.Variable], encoded: tf.Tensor) -> list[Any]:
    """Forms of dense layers' weights without a copy per task.

    The first layer reads `encoded` ``[T, S, F]``.
    """
    if not variables:  # frozen
        return []
    values = [tf.convert_to_tensor(v) for v in variables]
    tasks = tf.shape(encoded)[0]
    first = (
        DualKernel(values[0], encoded)
        if _is_wide(encoded, values[0])
        else SharedWeight(values[0], tasks)
    )
    return [first, *(SharedWeight(v, tasks) for v in values[1:])]


def _is_wide(encoded: tf.Tensor, kernel: tf.Tensor) -> bool:
    return encoded.dtype == kernel.dtype and kernel.shape[0] >= DUAL_FROM_WIDTH


def product_once(
    inputs_layer: FeatureEmbeddings,
    layer: keras.layers.Dense,
    features: Features,
    once: Collection[str],
) -> tf.Tensor:
    """``layer(inputs_layer(features))``, ``[N, units]``; see `FeatureEmbeddings.product`."""
    kernel, bias = (
        tf.cast(tf.convert_to_tensor(v), layer.compute_dtype) for v in (layer.kernel, layer.bias)
    )
    return layer.activation(inputs_layer.product(features, kernel, once) + bias)


def hidden_layers(
    units: Sequence[int], activation: Any, dropout: float, policy: Any
) -> list[keras.layers.Layer]:
    """Dense layers of these widths, each followed by dropout."""
    layers: list[keras.layers.Layer] = []
    for i, width in enumerate(units):
        layers.append(
            keras.layers.Dense(width, activation=activation, dtype=policy, name=f"hidden_{i}")
        )
        if dropout:
            layers.append(keras.layers.Dropout(dropout, dtype=policy, name=f"dropout_{i}"))
    return layers
