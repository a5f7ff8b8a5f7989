"""Per-task losses: ``sum(w * loss) / sum(w)`` over a task's samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

#: Maps labels ``[N]`` and outputs ``[N]`` (logits for binary losses) to one loss per sample.
SampleLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

#: Maps labels and outputs to each row's loss and its first and second derivative with respect to
#: the output. All three have the shape of the outputs; labels may lack leading axes and broadcast.
LossDerivatives = Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]]

_CROSS_ENTROPY = ("binary_crossentropy", "bce")
_SQUARED_ERROR = ("mean_squared_error", "mse")
#: Keras losses of a binary label, by function and class name. Here they take logits.
_BINARY = {"binary_crossentropy", "binary_focal_crossentropy"}
#: Keras losses of one real number per sample.
_REGRESSION = {
    "mean_squared_error",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_logarithmic_error",
    "huber",
    "log_cosh",
}


def sample_loss(loss: Any) -> SampleLoss:
    """The per-sample form of a Keras loss.

    Args:
        loss: A binary loss (``"binary_crossentropy"``, ``"binary_focal_crossentropy"`` or their
            `keras.losses.Loss` objects; they always take logits here, regardless of
            ``from_logits``), a regression loss (``"mean_squared_error"``, ``"huber"``, ... or their
            objects), or your own function or `keras.losses.Loss`, which takes the raw outputs.

    Returns:
        A function of labels ``[N]`` and outputs ``[N]`` that gives losses ``[N]``.

    Raises:
        ValueError: `loss` is None, names no Keras loss, or is a Keras loss that does not fit one
            output per sample. The returned function raises it too if your own loss does not return
            one value per row.
    """
    if isinstance(loss, str) and loss in _CROSS_ENTROPY:
        return lambda y, z: tf.nn.sigmoid_cross_entropy_with_logits(labels=y, logits=z)
    if isinstance(loss, str) and loss in _SQUARED_ERROR:
        return lambda y, z: tf.math.squared_difference(y, z)
    loss_function = keras.losses.get(loss)
    if loss_function is None:
        raise ValueError("loss must name a Keras loss, received None")
    name = _keras_name(loss_function)
    if name is not None and name not in _BINARY | _REGRESSION:
        raise ValueError(
            f"loss {name!r} does not fit one output per sample; use 'binary_crossentropy', "
            "'binary_focal_crossentropy', 'mean_squared_error', 'mean_absolute_error', 'huber', "
            "'log_cosh' or your own function of labels and raw outputs"
        )
    if isinstance(loss_function, keras.losses.Loss):
        if name in _BINARY:
            loss_function = type(loss_function).from_config(
                {**loss_function.get_config(), "from_logits": True}
            )
        return _by_rows(loss_function.call)
    options = {"from_logits": True} if name in _BINARY else {}
    return _by_rows(lambda y, z: loss_function(y, z, **options))


def _by_rows(loss_function: SampleLoss) -> SampleLoss:
    """A loss of labels and outputs ``[N, 1]`` as one of labels and outputs ``[N]``."""

    def losses(y: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        values = tf.convert_to_tensor(loss_function(y[:, None], z[:, None]))
        if values.shape.rank == 1:
            return values
        if values.shape.rank == 0 or not values.shape.is_compatible_with([None, 1]):
            received = f"the shape {values.shape}" if values.shape.rank else "a single one"
            raise ValueError(
                f"the loss must return one value per row, [N] or [N, 1], received {received}; "
                "take means over the last axis only: tf.reduce_mean(losses, -1)"
            )
        return tf.reshape(values, [-1])  # a weight [N] times [N, 1] would be [N, N]

    return losses


def is_binary(loss: Any) -> bool:
    """Whether this is a Keras loss of binary labels, whose outputs are logits."""
    if isinstance(loss, str) and loss in _CROSS_ENTROPY:
        return True
    return _keras_name(keras.losses.get(loss)) in _BINARY


def is_own(loss: Any) -> bool:
    """Whether this is a user's own loss, which does not say what the outputs are."""
    named = isinstance(loss, str) and loss in (*_CROSS_ENTROPY, *_SQUARED_ERROR)
    return not named and _keras_name(keras.losses.get(loss)) is None


class _OwnLoss:
    """A placeholder for a user's own loss, which a model's configuration does not contain."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: tf.Tensor) -> tf.Tensor:
        raise ValueError(
            f"the model was trained with the loss {self.name!r}, which is not part of its "
            "configuration: compile it with this loss before it adapts or is exported"
        )


def loss_config(loss: Any) -> Any:
    """The loss in a model's configuration: a serialized Keras loss, or the name of a user's own."""
    if isinstance(loss, _OwnLoss):
        return {"own": loss.name}
    if not isinstance(loss, str) and _keras_name(keras.losses.get(loss)) is None:
        return {"own": getattr(loss, "__name__", type(loss).__name__)}
    return keras.saving.serialize_keras_object(loss)


def loss_of_config(config: Any) -> Any:
    """Inverse of `loss_config`; a user's own loss becomes a placeholder that raises when called."""
    if isinstance(config, Mapping) and "own" in config:
        return _OwnLoss(config["own"])
    return keras.saving.deserialize_keras_object(config)


def loss_derivatives(loss: Any) -> LossDerivatives:
    """The derivatives of a loss with respect to the output; `loss` as in `sample_loss`."""
    per_sample = sample_loss(loss)
    if isinstance(loss, str) and loss in _CROSS_ENTROPY:

        def cross_entropy(y: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            probability = tf.sigmoid(z)
            return per_sample(_like(y, z), z), probability - y, probability * (1.0 - probability)

        return cross_entropy

    def by_tapes(y: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        labels, outputs = tf.reshape(_like(y, z), [-1]), tf.reshape(z, [-1])
        with tf.GradientTape() as second:
            second.watch(outputs)
            with tf.GradientTape() as first:
                first.watch(outputs)
                losses = per_sample(labels, outputs)
                total = tf.reduce_sum(losses)
            slope = first.gradient(total, outputs)
            slope_sum = tf.reduce_sum(slope)
        curvature = second.gradient(
            slope_sum, outputs, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        like = tf.shape(z)
        return tf.reshape(losses, like), tf.reshape(slope, like), tf.reshape(curvature, like)

    return by_tapes


def _like(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    """Labels in the outputs' shape."""
    if labels.shape.rank == outputs.shape.rank:
        return labels
    return tf.broadcast_to(labels, tf.shape(outputs))


def per_task_mean(values: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Weighted means ``[T]`` of ``[T, S]``; 0 for a task whose weights are all 0."""
    return tf.math.divide_no_nan(tf.reduce_sum(values * weights, -1), tf.reduce_sum(weights, -1))


def _keras_name(loss_function: Any) -> str | None:
    """Name of a Keras loss function; None for a user's function."""
    if isinstance(loss_function, keras.losses.Loss):
        is_keras_class = getattr(keras.losses, type(loss_function).__name__, None) is type(
            loss_function
        )
        loss_function = getattr(loss_function, "fn", None) if is_keras_class else None
        if is_keras_class and loss_function is None:
            return "unknown"
    name = getattr(loss_function, "__name__", None)
    return name if name is not None and getattr(keras.losses, name, None) is loss_function else None
