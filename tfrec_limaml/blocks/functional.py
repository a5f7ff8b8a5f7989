"""Bring your own functional Keras model as global block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.blocks.base import GlobalBlock
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import Features

#: Name of the model's input that takes the meta embedding.
META_EMBEDDING = "meta_embedding"


@keras.saving.register_keras_serializable("tfrec_limaml")
class FunctionalGlobalBlock(GlobalBlock):
    """A functional Keras model of encoded features and ``meta_embedding`` that ends in one logit.

    The model is cut where the meta embedding first enters: all that does not depend on it is the context, and runs once per batch.

    Example:
        >>> rows = keras.Input((20,), name="other")
        >>> meta_embedding = keras.Input((32,), name="meta_embedding")
        >>> hidden = keras.layers.Concatenate()([keras.layers.Dense(64, "relu")(rows), meta_embedding])
        >>> block = FunctionalGlobalBlock(keras.Model([rows, meta_embedding], keras.layers.Dense(1)(hidden)))

    Args:
        model: Its inputs are named as the encoded features they take (``"meta"``, ``"other"``, embedded features: shape ``()``, dtype
            ``"int32"``), one ``"meta_embedding"``; its output is ``[N, 1]`` or ``[N]``, a logit without sigmoid.

    Its layers keep their own dtype policy.
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
            raise LimamlError(f"model must be a functional Keras model, keras.Model(inputs, outputs), received {model!r}")
        names = [tensor.name for tensor in model.inputs]
        if names.count(META_EMBEDDING) != 1:
            raise LimamlError(f"model needs one input named {META_EMBEDDING!r}, received inputs {names}")
        if len(model.outputs) != 1 or tuple(model.outputs[0].shape[1:]) not in ((), (1,)):
            raise LimamlError(f"model must have one output of shape [N, 1] or [N], a logit, received {[t.shape for t in model.outputs]}")
        super().__init__(**kwargs)
        self.model = model
        self.feature_names = [name for name in names if name != META_EMBEDDING]
        # Bound methods, not attributes that Keras tracks: both halves share the layers of `model`, which are saved with it.
        context, head = _cut(model)
        self._run_context = None if context is None else context.__call__
        self._run_head = head.__call__

    def build(self, features_shape: Mapping[str, tuple[int | None, ...]], meta_embedding_shape: tuple[int | None, ...]) -> None:
        """Checks the model's inputs against the encoded features; raises `LimamlError` naming what does not fit."""
        given = {**features_shape, META_EMBEDDING: meta_embedding_shape}
        for tensor in self.model.inputs:
            if tensor.name not in given:
                raise LimamlError(f"the model's input {tensor.name!r} is no encoded feature; there are {sorted(features_shape)}")
            if tuple(given[tensor.name][1:]) != tuple(tensor.shape[1:]):
                raise LimamlError(
                    f"the model's input {tensor.name!r} has shape {tensor.shape}, the feature has {tuple(given[tensor.name])}"
                )
        self.built = True

    def encode_context(self, features: Features, training: bool = False) -> list[tf.Tensor]:
        """The tensors that the part with the meta embedding reads."""
        if self._run_context is None:
            return []
        context = self._run_context([features[name] for name in self.feature_names], training=training)
        return list(tf.nest.flatten(context))  # Keras unwraps lists of one tensor

    def head(self, context: list[tf.Tensor], meta_embedding: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits ``[N]``."""
        return tf.reshape(self._run_head([*context, meta_embedding], training=training), [-1])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FunctionalGlobalBlock:
        """Inverse of `get_config`."""
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})


def _cut(model: keras.Model) -> tuple[keras.Model | None, keras.Model]:
    """The model in two: features to a list of tensors (None if there are none), and these and the meta embedding to the logit."""
    own = next(tensor for tensor in model.inputs if tensor.name == META_EMBEDDING)
    dependent: dict[int, bool] = {id(tensor): tensor is own for tensor in model.inputs}

    def depends(tensor: Any) -> bool:
        if id(tensor) not in dependent:
            dependent[id(tensor)] = any([depends(source) for source in _sources(tensor)])
        return dependent[id(tensor)]

    output = model.outputs[0]
    if not depends(output):
        raise LimamlError(f"the model's output does not depend on its input {META_EMBEDDING!r}")
    border: dict[int, Any] = {}
    visited: set[int] = {id(own)}
    pending = [output]
    while pending:
        tensor = pending.pop()
        if not depends(tensor):
            border[id(tensor)] = tensor
        elif id(tensor) not in visited:
            visited.add(id(tensor))
            pending.extend(_sources(tensor))
    features = [tensor for tensor in model.inputs if tensor is not own]
    context = keras.Model(features, list(border.values())) if border else None
    return context, keras.Model([*border.values(), own], output)


def _sources(tensor: Any) -> list[Any]:
    """The tensors that the call which made `tensor` read."""
    operation, node, _ = tensor._keras_history
    return list(operation._inbound_nodes[node].input_tensors)
