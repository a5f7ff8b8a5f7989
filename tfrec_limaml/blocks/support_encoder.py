"""Maps a task's interactions to one vector: an amortised estimate of its offset."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

#: The logarithm of the smoothing is learned at this multiple of the outer learning rate.
SMOOTHING_RATE = 10.0
#: Bounds of the logarithm of the smoothing.
SMOOTHING_RANGE = (-20.0, 20.0)
#: Factor of ``log1p(days)``, which scales ages like the other inputs.
AGE_SCALE = 0.3


@keras.saving.register_keras_serializable("tfrec_limaml")
class SupportEncoder(keras.layers.Layer):
    """Maps a support set to one vector, in one pass and without inner steps.

    Each row becomes a token: the output of a dense layer on a summary of the row's context
    (`GlobalBlock.summarise`), the row's label and its age. The vector is a linear map of
    ``sum(tokens) / (n + smoothing)``, where ``n`` is the number of rows and the smoothing is
    learned. The order of the rows does not matter, padding changes nothing, and the vector of an
    empty support set is zero. Rows count by their weights.

    An `OffsetMetaBlock` uses the vector as the initial offset of a task, and as the prior mean of
    the closed form. Without inner steps the vector is the offset. Source: Garnelo et al.,
    "Conditional Neural Processes", ICML 2018.

    Examples:
        >>> encoder = SupportEncoder(33, label_mean=0.4)
        >>> meta_block = OffsetMetaBlock((64,), embedding_dim=33, support_encoder=encoder)

    Args:
        embedding_dim: Width ``D`` of the vector.
        units: Width of a token.
        activation: Activation of the tokens' layer.
        label_mean: Mean label of the training rows; it is subtracted from the labels.
        with_age: Whether tokens use the row's age in days. Support sets must then have an entry
            ``"age"``, as those of `task_dataset` do.
        smoothing: Initial value of the smoothing: with this number of rows, the mean token is
            halved.

    Raises:
        ValueError: `embedding_dim` or `units` is below 1, or `smoothing` is not positive.
    """

    def __init__(
        self,
        embedding_dim: int,
        units: int = 64,
        activation: Any = "gelu",
        label_mean: float = 0.0,
        with_age: bool = True,
        smoothing: float = 5.0,
        **kwargs: Any,
    ) -> None:
        for name, value in (("embedding_dim", embedding_dim), ("units", units)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, received {value}")
        if smoothing <= 0:
            raise ValueError(f"smoothing must be positive, received {smoothing}")
        super().__init__(autocast=False, **kwargs)  # sums of weights need full precision
        self.embedding_dim, self.units = int(embedding_dim), int(units)
        self.activation = keras.activations.get(activation)
        self.label_mean, self.smoothing = float(label_mean), float(smoothing)
        self.with_age = bool(with_age)
        self.token_layer = keras.layers.Dense(
            self.units, self.activation, dtype=self.dtype_policy, name="token"
        )
        self.vector_layer = keras.layers.Dense(
            self.embedding_dim,
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(0.0, 0.02),
            dtype=self.variable_dtype,
            name="vector",
        )

    def build(self, rows_shape: tuple[int | None, ...]) -> None:
        """Builds from the shape ``[T, S, W]`` of the rows."""
        width = int(rows_shape[-1] or 0) + 1 + self.with_age
        self.token_layer.build((None, None, width))
        self.vector_layer.build((None, self.units))
        self.scaled_log_smoothing = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(math.log(self.smoothing) / SMOOTHING_RATE),
            name="scaled_log_smoothing",
            autocast=False,
        )
        self.built = True

    def call(
        self, rows: tf.Tensor, label: tf.Tensor, weight: tf.Tensor, age: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Vectors ``[T, D]``.

        Args:
            rows: Input of each support row, ``[T, S, W]``.
            label: Their labels ``[T, S]``.
            weight: Their weights ``[T, S]``, 0 for padding.
            age: Days from each row to the newest row of its support set ``[T, S]``.

        Raises:
            ValueError: Ages are missing, but the tokens use them.
        """
        row_values = [label - self.label_mean]
        if self.with_age:
            if age is None:
                raise ValueError(
                    "the support set has no 'age' (days before its newest row); make batches with "
                    "task_dataset, or use SupportEncoder(..., with_age=False)"
                )
            row_values.append(AGE_SCALE * tf.math.log1p(age))
        parts = [tf.cast(value, self.compute_dtype)[..., None] for value in row_values]
        tokens = self.token_layer(tf.concat([tf.cast(rows, self.compute_dtype), *parts], -1))
        weight = tf.cast(weight, self.variable_dtype)
        total = tf.reduce_sum(weight[..., None] * tf.cast(tokens, weight.dtype), 1)
        logarithm = SMOOTHING_RATE * tf.convert_to_tensor(self.scaled_log_smoothing)
        smoothing = tf.exp(tf.clip_by_value(logarithm, *SMOOTHING_RANGE))
        return self.vector_layer(total / (tf.reduce_sum(weight, -1, keepdims=True) + smoothing))

    def compute_output_shape(self, rows_shape: Any, *_: Any) -> tuple[int | None, ...]:
        """``[T, D]``."""
        return (rows_shape[0], self.embedding_dim)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        config = super().get_config()
        config.pop("autocast", None)
        return {
            **config,
            "embedding_dim": self.embedding_dim,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "label_mean": self.label_mean,
            "with_age": self.with_age,
            "smoothing": self.smoothing,
        }
