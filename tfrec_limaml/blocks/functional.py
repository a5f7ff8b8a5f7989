"""A user's functional Keras model as global block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfrec_limaml.adaptation.mixing import drawn, refuse_mixing, suspects_within, varied
from tfrec_limaml.blocks.base import GlobalBlock
from tfrec_limaml.errors import LimamlError
from tfrec_limaml.features import Features
from tfrec_limaml.keras_internals import Call, calls_of, ends_in_sigmoid
from tfrec_limaml.manifest import META_EMBEDDING


@keras.saving.register_keras_serializable("tfrec_limaml")
class FunctionalGlobalBlock(GlobalBlock):
    """A functional Keras model that maps encoded features and ``meta_embedding`` to a logit.

    The model is split where the meta embedding first enters: everything that does not depend on the
    meta embedding is the context, and runs once per batch. The model's layers keep their dtype
    policy.

    Examples:
        >>> rows = keras.Input((20,), name="other")
        >>> meta_embedding = keras.Input((32,), name="meta_embedding")
        >>> hidden = keras.layers.Dense(64, "relu")(rows)
        >>> hidden = keras.layers.Concatenate()([hidden, meta_embedding])
        >>> logit = keras.layers.Dense(1)(hidden)
        >>> block = FunctionalGlobalBlock(keras.Model([rows, meta_embedding], logit))

    Args:
        model: One input is named ``"meta_embedding"``. The others are named after the encoded
            features that they take: ``"meta"``, ``"other"`` or embedded features (shape ``()``,
            dtype ``"int32"``). The output is ``[N, 1]`` or ``[N]``, a logit without sigmoid.

    Raises:
        LimamlError: `model` is not a functional model with such inputs and such an output.
    """

    def __init__(self, model: keras.Model, **kwargs: Any) -> None:
        if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
            raise LimamlError(
                "model must be a functional Keras model, keras.Model(inputs, outputs), received "
                f"{model!r}"
            )
        names = [tensor.name for tensor in model.inputs]
        if names.count(META_EMBEDDING) != 1:
            raise LimamlError(
                f"model needs one input named {META_EMBEDDING!r}, received inputs {names}"
            )
        if len(model.outputs) != 1 or tuple(model.outputs[0].shape[1:]) not in ((), (1,)):
            raise LimamlError(
                "model must have one output of shape [N, 1] or [N], a logit, received "
                f"{[t.shape for t in model.outputs]}"
            )
        if ends_in_sigmoid(model):
            raise LimamlError(
                "model must end in a logit, received one that ends in a sigmoid; leave the sigmoid "
                "out: loss and predictions apply it"
            )
        super().__init__(**kwargs)
        self.model = model
        self.feature_names = [name for name in names if name != META_EMBEDDING]
        self._halves = _Halves(model)

    def build(
        self,
        features_shape: Mapping[str, tuple[int | None, ...]],
        meta_embedding_shape: tuple[int | None, ...],
    ) -> None:
        """Checks the model's inputs against the encoded features.

        Raises:
            LimamlError: An input does not fit the features, or a part of the model mixes rows; the
                message names it.
        """
        shapes = {**features_shape, META_EMBEDDING: meta_embedding_shape}
        for tensor in self.model.inputs:
            if tensor.name not in shapes:
                raise LimamlError(
                    f"the model's input {tensor.name!r} is not an encoded feature; there are "
                    f"{sorted(features_shape)}. A column without an embedding is part of 'meta' or "
                    "'other': encoder.slices(role) says where"
                )
            if tuple(shapes[tensor.name][1:]) != tuple(tensor.shape[1:]):
                raise LimamlError(
                    f"the model's input {tensor.name!r} has shape {tensor.shape}, the feature has "
                    f"{tuple(shapes[tensor.name])}; give the input the feature's shape"
                )
        with tf.init_scope():
            self._refuse_mixing()
        self.built = True

    def _refuse_mixing(self) -> None:
        suspects = suspects_within(self.model, "row")
        if not suspects:
            return
        noisy = list(zip(self.model.trainable_variables, varied(self.model), strict=True))
        rows = drawn({t.name: tf.zeros(t.shape[1:], t.dtype) for t in self.model.inputs})
        for name, number in self._numbers_of_ids().items():
            rows[name] = tf.minimum(rows[name], tf.cast(number - 1, rows[name].dtype))

        def logits(rows: Features) -> tf.Tensor:
            with keras.StatelessScope(noisy):
                return self.head(self.encode_context(rows), rows[META_EMBEDDING])

        try:
            refuse_mixing(self.model, suspects, logits, rows, "row")
        except ValueError as error:
            raise LimamlError(str(error)) from error

    def _numbers_of_ids(self) -> dict[str, int]:
        """The number of ids of each input that embedding layers take: that of the smallest."""
        numbers: dict[str, int] = {}
        for call in calls_of(self.model):
            if isinstance(call.operation, keras.layers.Embedding):
                for tensor in self.model.inputs:
                    if tensor is call.inputs[0]:
                        number = call.operation.input_dim
                        numbers[tensor.name] = min(number, numbers.get(tensor.name, number))
        return numbers

    def encode_context(self, features: Features, training: bool = False) -> list[tf.Tensor]:
        """The tensors that enter the part with the meta embedding."""
        return self._halves.before([features[name] for name in self.feature_names], training)

    def head(
        self, context: list[tf.Tensor], meta_embedding: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        """Logits ``[N]``."""
        return tf.reshape(self._halves.after(context, meta_embedding, training), [-1])

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments."""
        return {**super().get_config(), "model": keras.saving.serialize_keras_object(self.model)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FunctionalGlobalBlock:
        """Inverse of `get_config`."""
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})


class _Halves:
    """Runs a functional model in two parts: the calls before the meta embedding enters, and after.

    The model is not changed. (Sub-models of its inner tensors would add calls to its layers, and
    it could no longer be serialised.)
    """

    def __init__(self, model: keras.Model) -> None:
        embedding = next(tensor for tensor in model.inputs if tensor.name == META_EMBEDDING)
        self.embedding = embedding
        self.features = [tensor for tensor in model.inputs if tensor is not embedding]
        self.output = model.outputs[0]
        self.calls_before: list[Call] = []
        self.calls_after: list[Call] = []
        dependent, border = {id(embedding)}, {}
        for call in calls_of(model):
            if not any(id(tensor) in dependent for tensor in call.inputs):
                self.calls_before.append(call)
                continue
            self.calls_after.append(call)
            border.update(
                {id(tensor): tensor for tensor in call.inputs if id(tensor) not in dependent}
            )
            dependent.update(id(tensor) for tensor in call.outputs)
        if id(self.output) not in dependent:
            raise LimamlError(
                f"the model's output does not depend on its input "
                f"{META_EMBEDDING!r}; connect it to the output"
            )
        self.border = list(border.values())

    def before(self, features: list[tf.Tensor], training: bool) -> list[tf.Tensor]:
        """The tensors that enter the second part."""
        values = {
            id(tensor): tf.cast(value, tensor.dtype)
            for tensor, value in zip(self.features, features, strict=True)
        }
        _run(self.calls_before, values, training)
        return [values[id(tensor)] for tensor in self.border]

    def after(
        self, border: list[tf.Tensor], meta_embedding: tf.Tensor, training: bool
    ) -> tf.Tensor:
        """The model's output."""
        values = {id(tensor): value for tensor, value in zip(self.border, border, strict=True)}
        values[id(self.embedding)] = tf.cast(meta_embedding, self.embedding.dtype)
        _run(self.calls_after, values, training)
        return values[id(self.output)]


def _run(calls: list[Call], values: dict[int, tf.Tensor], training: bool) -> None:
    """Runs the calls in order; `values` maps symbolic tensors to values and is extended."""
    for call in calls:
        values.update(call.run(values, training))
